// The figures: each returns traces and axes from the data and the reader's choices.
"use strict";
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const escaped = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = (text, most = 22) => (text.length <= most ? text : `${text.slice(0, most / 2 - 1)}…${text.slice(1 - most / 2)}`);
const scaled = (value, unit) => (value === null || value === undefined ? null : unit === "percent" ? 100 * value : value);
const axisTitle = name => labelOf(name) + (metricOf(name).unit === "percent" ? ", %" : "");

/** Colour, symbol and dash: by run where there are several (dash by variant where those are several), else by variant. */
function styleOf(run, variant, variants = 1) {
  const order = [1, 0, 2, 3, 4, 5, 6, 7];
  const color = SEVERAL ? DATA.runs[run].color : order[variant % 8];
  return { color: css(`--c${color % 8}`), symbol: SYMBOLS[(SEVERAL ? run : variant) % 8], dash: DASHES[(SEVERAL && variants === 1 ? run : variant) % 6] };
}
const nameOf = (run, label) => (SEVERAL ? [DATA.runs[run].name, label].filter(Boolean).join(", ") : label || DATA.runs[run].name);

/** A line with markers, and its interval as bars. */
function lineTrace(name, style, points, unit) {
  const trace = {
    type: "scatter", mode: points.length > 60 ? "lines" : "lines+markers", name: escaped(name), label: name, style,
    x: points.map(point => point.x), y: points.map(point => scaled(point.value, unit)), connectgaps: false,
    text: points.map(point => `${show(point.value, unit)} ${showInterval(point.low, point.high, unit)}${point.n ? `, n = ${point.n}` : ""}`),
    hovertemplate: `${escaped(name)}: %{text}<extra></extra>`,
    line: { color: style.color, dash: style.dash, width: 2 }, marker: { color: style.color, symbol: style.symbol, size: 8 },
  };
  if (points.some(point => point.low !== null && point.low !== undefined)) {
    const end = (point, bound) => (point[bound] === null || point[bound] === undefined || point.value === null ? 0 : Math.abs(scaled(point[bound] - point.value, unit)));
    trace.error_y = { type: "data", symmetric: false, array: points.map(p => end(p, "high")), arrayminus: points.map(p => end(p, "low")), color: style.color, thickness: 1.2, width: 3 };
  }
  return trace;
}

function tapPoints(address) {
  return DATA.taps.map((name, tap) => ({ x: short(name), ...at(address, tap) })).filter(point => point.value !== undefined);
}

const setsOf = (choice, kind) => (state[choice] === "each" ? setsIn(kind).filter(index => !isMean(index)) : [+state[choice]]);

/** The splits chosen; for a metric that needs OOD data, the OOD sets. */
function collapseSets() {
  const measured = sets => sets.filter(set => DATA.runs.some((_, run) => DATA.series[`${run} collapse ${set} 0 ${state.collapse}`]));
  const chosen = measured(state.split === "each" ? idSplits : [+state.split]);
  return chosen.length ? chosen : measured(setsIn("collapse"));
}

function depthFigure(kind, metric, method, sets) {
  const unit = metricOf(metric).unit;
  const traces = [];
  DATA.runs.forEach((_, run) => sets.forEach((dataset, variant) => {
    const points = tapPoints(`${run} ${kind} ${dataset} ${method} ${metric}`);
    const label = sets.length > 1 || !SEVERAL ? setLabel(dataset) : "";
    if (points.some(point => point.value !== null)) traces.push(lineTrace(nameOf(run, label), styleOf(run, variant, sets.length), points, unit));
  }));
  const values = traces.flatMap(trace => trace.y).filter(value => value !== null);
  const log = unit === "number" && values.length && Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) > 30;
  return { traces, layout: { hovermode: "x unified", xaxis: tapAxis(), yaxis: valueAxis(axisTitle(metric), log) } };
}
const tapAxis = () => ({ type: "category", categoryorder: "array", categoryarray: DATA.taps.map(name => short(name)), range: [-0.4, DATA.taps.length - 0.6], tickangle: DATA.taps.length > 8 ? -60 : "auto" });
const valueAxis = (title, log = false) => ({ title: { text: escaped(title + (log ? " (log)" : "")), standoff: 6 }, type: log ? "log" : "linear", ...(log ? { dtick: 1, minor: { ticks: "outside", ticklen: 3 }, exponentformat: "power" } : {}) });

function transferFigure() {
  const chosen = setsOf("transferset", "transfer");
  const figure = depthFigure("transfer", state.transfermetric, state.probe, chosen);
  if (state.transfermetric !== "accuracy") return figure;
  // The same probe on ID: what transfer is lost against.
  const sets = has("accuracy", "datasets");
  DATA.runs.forEach((_, run) => sets.slice(0, 1).forEach(dataset => {
    const points = tapPoints(`${run} accuracy ${dataset} ${state.probe} accuracy`);
    if (points.length > 1) {
      const style = { color: SEVERAL ? styleOf(run, 0).color : css("--muted"), symbol: "line-ew-open", dash: "dot" };
      figure.traces.push(lineTrace(nameOf(run, "same probe on held-out ID"), style, points, "percent"));
    }
  }));
  return figure;
}

/** Collapse against an error, a point a tap; lines join the taps in depth order. */
function tradeFigure(kind, choice, metric, method, error, turned) {
  const traces = [], split = collapseSplit(), sets = setsOf(choice, kind), unit = metricOf(state.collapse).unit;
  DATA.runs.forEach((_, run) => sets.forEach((dataset, variant) => {
    const points = DATA.taps.map((name, tap) => {
      const x = at(`${run} collapse ${split} 0 ${state.collapse}`, tap), y = at(`${run} ${kind} ${dataset} ${method} ${metric}`, tap);
      return x && y && x.value !== null && y.value !== null ? { name, x: x.value, y: turned ? 1 - y.value : y.value, low: turned ? flip(y.high) : y.low, high: turned ? flip(y.low) : y.high } : null;
    }).filter(Boolean);
    if (!points.length) return;
    const style = styleOf(run, variant, sets.length), name = nameOf(run, sets.length > 1 || !SEVERAL ? setLabel(dataset) : "");
    const last = points.length - 1;
    traces.push({
      type: "scatter", mode: sets.length * DATA.runs.length > 4 ? "markers" : "lines+markers+text", name: escaped(name), label: name, style,
      x: points.map(p => scaled(p.x, unit)), y: points.map(p => 100 * p.y),
      text: points.map((p, i) => (i === last || i === last - 1 || i === 0 ? escaped(short(p.name, 14)) : "")), textposition: "top center", textfont: { color: style.color, size: 11 }, cliponaxis: false,
      customdata: points.map(p => `${escaped(p.name)}<br>${escaped(labelOf(state.collapse))} ${show(p.x, unit)}<br>${escaped(labelOf(error))} ${show(p.y, "percent")} % ${showInterval(p.low, p.high, "percent")}`),
      hovertemplate: `<b>${escaped(name)}</b><br>%{customdata}<extra></extra>`,
      line: { color: style.color, dash: style.dash, width: 1 }, marker: { color: style.color, symbol: style.symbol, size: 10 },
    });
  }));
  const values = traces.flatMap(trace => trace.x);
  const log = unit === "number" && values.length && Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) > 8;
  return { traces, layout: { hovermode: "closest", xaxis: valueAxis(axisTitle(state.collapse), log), yaxis: valueAxis(`${labelOf(error)}, %`) }, note: relationNote(kind, error, DATA.methods[method]) };
}
const flip = value => (value === null || value === undefined ? null : 1 - value);
const collapseSplit = () => (state.split === "each" ? idSplits[0] : +state.split);

/** What the relation table says about a scatter plot. */
function relationNote(kind, error, method) {
  return Object.entries(DATA.relations).map(([key, rows]) => {
    const row = rows[`${kind} ${error} ${method} 0 ${state.collapse}`];
    if (!row) return "";
    const who = DATA.runs[key] ? (SEVERAL ? `${DATA.runs[key].name}: ` : "") : "All runs: ";
    if (row[0] === null) return `${who}correlation undefined (${row[9]}). `;
    return `${who}Pearson ${show(row[0], "correlation")} ${showInterval(row[1], row[2], "correlation")}, n = ${row[6]} pairs over all sets. `;
  }).join("");
}

function scoresFigure(run) {
  const tap = tapOf("scoretap", run);
  const rows = DATA.histograms.filter(row => row[0] === run && row[1] === tap && String(row[2]) === state.detector);
  let variant = 0;
  const traces = rows.map(([, , , name, ends, counts]) => {
    const isId = name in SPLITS, total = counts.reduce((sum, count) => sum + count, 0) || 1;
    const edges = ends.length === counts.length + 1 ? ends : counts.map((_, i) => ends[0] + (i * (ends[1] - ends[0])) / counts.length).concat(ends[1]);
    const index = variant++, ordered = [1, 0, 2, 3, 4, 5, 7];
    const style = isId ? { color: css("--c6"), dash: "solid", symbol: "square" } : { color: css(`--c${ordered[(index - 1 + 7) % 7]}`), dash: DASHES[Math.max(index - 1, 0) % 6], symbol: "none" };
    const label = isId ? SPLITS[name] : name;
    return {
      type: "scatter", mode: "lines", name: escaped(label), label, style, x: edges, y: [...counts.map(count => (100 * count) / total), 0],
      line: { color: style.color, dash: style.dash, width: 2, shape: "hv" }, fill: isId ? "tozeroy" : "none", fillcolor: isId ? `${css("--c6")}40` : undefined,
      hovertemplate: `${escaped(label)}: %{y:.1f} % of images<extra></extra>`,
    };
  });
  const what = `${DATA.taps[tap]}, ${chosenLabel("detector")}.`;
  return { traces, layout: { hovermode: "x", xaxis: { title: { text: "score" } }, yaxis: { ...valueAxis("share of images, %"), rangemode: "tozero" } }, note: traces.length ? what : `${what} No scores: not measured or undefined here.` };
}

function curveFigure(wanted, title, unit = "number") {
  const traces = [], labels = [];
  let axis = "epoch";
  for (const run of DATA.runs)
    for (const [split, curve] of Object.entries(run.train.curves || {}))
      for (const name of Object.keys(curve.y)) { const label = wanted(split, name); if (label && !labels.includes(label)) labels.push(label); }
  DATA.runs.forEach((run, number) => {
    axis = run.train.unit || axis;
    for (const [split, curve] of Object.entries(run.train.curves || {}))
      for (const [name, values] of Object.entries(curve.y)) {
        const label = wanted(split, name);
        if (!label) continue;
        const points = curve.x.map((x, i) => ({ x, value: values[i] })).filter(point => point.value !== null);
        if (points.length) traces.push(lineTrace(nameOf(number, SEVERAL && labels.length === 1 ? "" : label), styleOf(number, labels.indexOf(label), labels.length), points, unit));
      }
  });
  for (const trace of traces) { trace.marker.size = 5; trace.hovertemplate = `${trace.name}: %{text}<extra></extra>`; }
  return { traces, layout: { hovermode: "x unified", xaxis: { title: { text: axis }, rangemode: "tozero" }, yaxis: valueAxis(title) } };
}
const SPLIT_NAMES = { train: "training", val: "validation" };
const splitName = split => SPLIT_NAMES[split] || split;

const FIGURES = {
  collapse: { uses: ["collapse", "split"], draw: () => depthFigure("collapse", state.collapse, 0, collapseSets()) },
  detection: { uses: ["detector", "detection", "oodset"], draw: () => depthFigure("detection", state.detection, state.detector, setsOf("oodset", "detection")) },
  transfer: { uses: ["probe", "transfermetric", "transferset"], draw: transferFigure },
  "trade-detection": {
    uses: ["collapse", "split", "error", "detector", "oodset"],
    draw: () => tradeFigure("detection", "oodset", state.error === "1-auroc" ? "auroc" : state.error, state.detector, state.error, state.error === "1-auroc"),
  },
  "trade-transfer": { uses: ["collapse", "split", "probe", "transferset"], draw: () => tradeFigure("transfer", "transferset", "accuracy", state.probe, "transfer_error", true) },
  loss: { uses: ["losspart"], draw: () => curveFigure((split, name) => isLossPart(name) && (state.losspart === "all" || name === state.losspart) && `${splitName(split)}: ${name}`, "loss") },
  accuracy: { uses: [], draw: () => curveFigure((split, name) => name === "accuracy" && splitName(split), "accuracy, %", "percent") },
  lr: { uses: [], draw: () => curveFigure((split, name) => name === "lr" && "learning rate", "learning rate") },
  "training-collapse": {
    uses: ["trainmetric", "traintap"],
    draw: () => curveFigure((split, name) => {
      const part = name.split("/"), tap = part.slice(1, -1).join("/");
      return part[0] === "collapse" && part[part.length - 1] === state.trainmetric && (state.traintap === "each" || state.traintap === tap) && tap;
    }, axisTitle(state.trainmetric || ""), metricOf(state.trainmetric).unit),
  },
};
DATA.runs.forEach((_, run) => { FIGURES[`scores-${run}`] = { uses: ["scoretap", "detector"], draw: () => scoresFigure(run) }; });
