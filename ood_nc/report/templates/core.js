// The data of the page, how numbers are written, and what the reader has chosen.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const SEVERAL = DATA.runs.length > 1;
const DASH = "–";
const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "triangle-down", "pentagon", "star"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const HEADS = "head"; // the choice of tap that is, in each run, the tap the head reads

const metricOf = name => DATA.metrics[name] || { label: name, unit: "number", better: "" };
const labelOf = name => metricOf(name).label;
/** With a true minus sign, and without one on what is rounded to zero. */
const sign = text => (text.startsWith("-") && Number(text) === 0 ? text.slice(1) : text).replace(/-/g, "−");

/** A value in a metric's unit, as the page itself has it. */
function show(value, unit) {
  if (value === null || value === undefined) return DASH;
  if (unit === "correlation") {
    const text = value.toFixed(2);
    return Number(text) < 0 ? sign(text) : `+${text.replace("-", "")}`;
  }
  if (unit === "percent") return sign((100 * value).toFixed(1));
  if (value === 0) return "0";
  const size = Math.abs(value);
  return sign(size >= 0.001 && size < 999.5 ? value.toPrecision(3) : value.toExponential(1));
}

function showInterval(low, high, unit) {
  return low === null || low === undefined || high === null || high === undefined
    ? ""
    : `[${show(low, unit)}, ${show(high, unit)}]`;
}

/** The measurement of a series at a tap, or null where there is none. */
function at(address, tap) {
  const series = DATA.series[address];
  if (!series || tap === undefined) return null;
  const reason = series.r && series.r[tap] !== undefined ? DATA.reasons[series.r[tap]] : null;
  if (series.v[tap] === null && reason === null) return null;
  return {
    value: series.v[tap],
    reason,
    low: series.l ? series.l[tap] : null,
    high: series.h ? series.h[tap] : null,
    n: Array.isArray(series.n) ? series.n[tap] : series.n,
  };
}

// What there is to choose from, in the order of the documents.
const found = {};
for (const address of Object.keys(DATA.series)) {
  const [, kind, dataset, method, metric] = address.split(" ");
  const entry = found[kind] || (found[kind] = { datasets: new Set(), methods: new Set(), metrics: new Set() });
  entry.datasets.add(+dataset);
  entry.methods.add(+method);
  entry.metrics.add(metric);
}
const has = (kind, part) => (found[kind] ? [...found[kind][part]] : []);

const GROUP_MEANS = {
  ood: "mean over all OOD sets",
  near: "mean over near OOD sets",
  far: "mean over far OOD sets",
  covariate: "mean over covariate-shifted sets",
  transfer: "mean over sets",
};
const isMean = index => DATA.datasets[index].name === "mean";
const SPLITS = { id_train: "ID train", id_test: "held-out ID" };
function setLabel(index) {
  const { name, group } = DATA.datasets[index];
  return name === "mean" ? GROUP_MEANS[group] || `mean, ${group}` : SPLITS[name] || name;
}
const pairs = list => list.map(value => [String(value), value]);
const metricPairs = list => list.map(name => [name, labelOf(name)]);
const setPairs = list => list.map(index => [String(index), setLabel(index)]);
const methodPairs = kind => has(kind, "methods").map(index => [String(index), DATA.methods[index]]);

const idSplits = has("collapse", "datasets").filter(index => DATA.datasets[index].group === "id");
const setsIn = kind => has(kind, "datasets").filter(index => DATA.datasets[index].group !== "id");
const shownMetrics = kind =>
  has(kind, "metrics").filter(name => !["seconds", "memory", "retained", "id_correlation"].includes(name));
function setOptions(kind) {
  const sets = setsIn(kind);
  const options = [
    ["each", "every set"],
    ...setPairs([...sets.filter(isMean), ...sets.filter(index => !isMean(index))]),
  ];
  return sets.length ? options : [];
}

function trainNames(pattern) {
  const names = new Set();
  for (const run of DATA.runs)
    for (const curve of Object.values(run.train.curves || {}))
      for (const name of Object.keys(curve.y)) {
        const match = pattern(name);
        if (match) names.add(match);
      }
  return [...names];
}

const isLossPart = name => name === "loss" || name === "task" || /^(entropy|within_class)\//.test(name);
const parts = trainNames(name => (isLossPart(name) ? name : null));
const relationTable = document.getElementById("table-relations");
const differenceTable = document.getElementById("table-differences");
const detectorTable = document.getElementById("table-detectors");
const readData = (element, name) => (element && element.dataset[name] ? JSON.parse(element.dataset[name]) : []);
const headLabel = `${[...new Set(DATA.runs.map(run => DATA.taps[run.head]))].join(" / ")} (what the head reads)`;
const tapOf = (choice, run) => (state[choice] === HEADS ? DATA.runs[run].head : +state[choice]);

// Each choice: its options as [value, label], and the one it starts with.
const CHOICES = {
  collapse: { options: metricPairs(has("collapse", "metrics")), first: "nc1_pinv" },
  split: { options: [...(idSplits.length > 1 ? [["each", "every split"]] : []), ...setPairs(idSplits)] },
  detector: { options: methodPairs("detection"), first: String(DATA.methods.indexOf(DATA.detector)) },
  detection: { options: metricPairs(shownMetrics("detection")), first: "fpr95_id_positive" },
  oodset: { options: setOptions("detection") },
  error: {
    options: metricPairs(
      ["fpr95_id_positive", "1-auroc"].filter(name =>
        has("detection", "metrics").includes(name === "1-auroc" ? "auroc" : name),
      ),
    ),
  },
  probe: { options: methodPairs("transfer"), first: String(DATA.methods.indexOf("linear")) },
  transfermetric: { options: metricPairs(shownMetrics("transfer")), first: "accuracy" },
  transferset: { options: setOptions("transfer") },
  tap: { options: [[HEADS, headLabel], ...DATA.taps.map((name, index) => [String(index), name])] },
  scoretap: {
    options: [
      [HEADS, headLabel],
      ...[...new Set(DATA.histograms.map(row => row[1]))].map(tap => [String(tap), DATA.taps[tap]]),
    ],
  },
  pair: {
    options: readData(detectorTable, "pairs").map((names, index) => [String(index), names.map(labelOf).join(" and ")]),
  },
  scale: {
    options: [
      ["0", "as measured"],
      ["1", "min-max normalised by set"],
    ],
  },
  relset: {
    options: Object.keys(DATA.relations).map(key => [key, DATA.runs[key] ? DATA.runs[key].name : "all runs together"]),
    first: relationTable ? relationTable.dataset.set : "",
  },
  place: { options: readData(differenceTable, "places").map((name, index) => [String(index), name]) },
  losspart: { options: [["all", "all parts"], ...pairs(parts)], first: SEVERAL ? "loss" : "all" },
  trainmetric: {
    options: metricPairs(trainNames(name => name.startsWith("collapse/") && name.split("/").pop())),
    first: "nc1_pinv",
  },
  traintap: {
    options: [
      ["each", "every tap"],
      ...pairs(trainNames(name => name.startsWith("collapse/") && name.split("/").slice(1, -1).join("/"))),
    ],
  },
};
// "each" is readable for one run; for several, a mean is.
for (const name of ["oodset", "transferset"]) {
  const means = CHOICES[name].options.filter(([value]) => value !== "each" && isMean(+value));
  const mean = means.find(([value]) => DATA.datasets[+value].group === "ood") || means[0];
  if (SEVERAL && mean) CHOICES[name].first = mean[0];
}
if (SEVERAL) {
  CHOICES.split.first = (CHOICES.split.options.find(([value]) => value !== "each") || [])[0];
  CHOICES.traintap.first = (CHOICES.traintap.options.find(([value]) => value === "encoder") ||
    CHOICES.traintap.options[1] ||
    [])[0];
}

const state = {};
const listeners = [];
/** Calls `draw` when one of the named choices changes. */
function onChange(names, draw) {
  listeners.push({ names, draw });
}

function setUpChoices() {
  for (const [name, choice] of Object.entries(CHOICES)) {
    const values = choice.options.map(([value]) => value);
    state[name] = values.includes(choice.first) ? choice.first : values[0];
  }
  for (const select of document.querySelectorAll("select[data-control]")) {
    const name = select.dataset.control;
    for (const [value, label] of CHOICES[name].options) select.add(new Option(label, value));
    select.value = state[name];
    select.closest("label").hidden = CHOICES[name].options.length < 2;
    select.addEventListener("change", () => choose(name, select.value));
  }
}

function choose(name, value) {
  state[name] = value;
  for (const select of document.querySelectorAll(`select[data-control="${name}"]`)) select.value = value;
  for (const listener of listeners) if (listener.names.includes(name)) listener.draw();
}
const chosenLabel = name => (CHOICES[name].options.find(([value]) => value === state[name]) || ["", ""])[1];
