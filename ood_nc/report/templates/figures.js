// The figures by layer: each returns traces and axes from the data and the reader's choices.
"use strict";
let printing = false;
const PAPER = 687; // A4 between its margins, in CSS pixels
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const escaped = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = (text, most = 22) =>
  text.length <= most ? text : `${text.slice(0, most / 2 - 1)}…${text.slice(1 - most / 2)}`;
const scaled = (value, unit) =>
  value === null || value === undefined ? null : unit === "percent" ? 100 * value : value;
const axisTitle = name => labelOf(name) + (metricOf(name).unit === "percent" ? ", %" : "");

/** Colour, symbol and dash: by run where there are several (dash by variant where those are several), else by variant. */
function styleOf(run, variant, variants = 1) {
  const order = [1, 0, 2, 3, 4, 5, 6, 7];
  const color = SEVERAL ? DATA.runs[run].color : order[variant % 8];
  return {
    color: css(`--c${color % 8}`),
    symbol: SYMBOLS[SEVERAL ? DATA.runs[run].symbol : variant % 8],
    dash: DASHES[(SEVERAL && variants === 1 ? run : variant) % 6],
  };
}
const nameOf = (run, label) =>
  SEVERAL ? [DATA.runs[run].name, label].filter(Boolean).join(", ") : label || DATA.runs[run].name;

/** A line with markers, and its interval as bars. */
function lineTrace(name, style, points, unit) {
  const trace = {
    type: "scatter",
    mode: points.length > 60 ? "lines" : "lines+markers",
    name: escaped(name),
    label: name,
    style,
    x: points.map(point => point.x),
    y: points.map(point => scaled(point.value, unit)),
    connectgaps: false,
    text: points.map(
      point =>
        `${show(point.value, unit)} ${showInterval(point.low, point.high, unit)}${point.n ? `, n = ${point.n}` : ""}`,
    ),
    hovertemplate: `${escaped(name)}: %{text}<extra></extra>`,
    line: { color: style.color, dash: style.dash, width: 2 },
    marker: { color: style.color, symbol: style.symbol, size: 8 },
  };
  if (points.some(point => point.low !== null && point.low !== undefined)) {
    // The value itself can lie outside of a percentile interval of few images.
    const end = (point, bound, sign) =>
      point[bound] === null || point[bound] === undefined || point.value === null
        ? 0
        : Math.max(0, sign * scaled(point[bound] - point.value, unit));
    trace.error_y = {
      type: "data",
      symmetric: false,
      array: points.map(p => end(p, "high", 1)),
      arrayminus: points.map(p => end(p, "low", -1)),
      color: style.color,
      thickness: 1.2,
      width: 3,
    };
  }
  return trace;
}

function tapPoints(address) {
  return DATA.taps
    .map((name, tap) => ({ x: escaped(name), ...at(address, tap) }))
    .filter(point => point.value !== undefined);
}

const setsOf = (choice, kind) =>
  state[choice] === "each" ? setsIn(kind).filter(index => !isMean(index)) : [+state[choice]];

/** The splits chosen; for a metric that needs OOD data, the OOD sets. */
function collapseSets() {
  const measured = sets =>
    sets.filter(set => DATA.runs.some((_, run) => DATA.series[`${run} collapse ${set} 0 ${state.collapse}`]));
  const chosen = measured(state.split === "each" ? idSplits : [+state.split]);
  return chosen.length ? chosen : measured(setsIn("collapse"));
}

function depthFigure(kind, metric, method, sets) {
  const unit = metricOf(metric).unit;
  const traces = [];
  DATA.runs.forEach((_, run) =>
    sets.forEach((dataset, variant) => {
      const points = tapPoints(`${run} ${kind} ${dataset} ${method} ${metric}`);
      const label = sets.length > 1 || !SEVERAL ? setLabel(dataset) : "";
      if (points.some(point => point.value !== null))
        traces.push(lineTrace(nameOf(run, label), styleOf(run, variant, sets.length), points, unit));
    }),
  );
  const values = traces.flatMap(trace => trace.y).filter(value => value !== null);
  const log = logTicksFor(values, unit, 30);
  return { traces, layout: { hovermode: "x unified", xaxis: tapAxis(), yaxis: valueAxis(axisTitle(metric), log) } };
}
/** Dotted names without the parts that all of them begin and end with. */
function withoutShared(names) {
  const dotted = names.filter(name => name.includes(".")).map(name => name.split("."));
  if (dotted.length < 2) return names;
  const shared = lists => {
    let count = 0;
    while (lists.every(list => count < list.length - 1 && list[count] === lists[0][count])) count++;
    return count;
  };
  const head = shared(dotted),
    tail = shared(dotted.map(list => [...list].reverse()));
  const inner = name =>
    name
      .split(".")
      .slice(head, tail ? -tail : undefined)
      .join(".");
  return names.map(name => (name.includes(".") ? `${head ? "…" : ""}${inner(name)}${tail ? "…" : ""}` : name));
}

/** The taps' names, as short as they can be and still differ. */
const TAP_LABELS = [DATA.taps, withoutShared(DATA.taps)]
  .map(names => names.map(name => short(name)))
  .concat([DATA.taps])
  .find(names => new Set(names).size === DATA.taps.length);

/** The taps in depth order; where all their names have no room, every second, third, ... is named. */
function tapAxis() {
  const width = printing ? PAPER : document.documentElement.clientWidth;
  const step = Math.ceil((14 * DATA.taps.length) / Math.max(Math.min(width, 1040) - 110, 1));
  const named = DATA.taps.map((_, tap) => tap).filter(tap => (DATA.taps.length - 1 - tap) % step === 0);
  return {
    type: "category",
    categoryorder: "array",
    categoryarray: DATA.taps.map(escaped),
    range: [-0.4, DATA.taps.length - 0.6],
    tickmode: "array",
    tickvals: named.map(tap => escaped(DATA.taps[tap])),
    ticktext: named.map(tap => escaped(TAP_LABELS[tap])),
    tickangle: DATA.taps.length > 8 ? -60 : "auto",
  };
}
const valueAxis = (title, logTicks = null) => ({
  title: { text: escaped(title + (logTicks ? " (log)" : "")), standoff: 6 },
  type: logTicks ? "log" : "linear",
  ...logTicks,
});

/** Ticks at 1, 2 and 5 (over many decades at 1 alone), or null where the values ask for a linear axis. */
function logTicksFor(values, unit, spread) {
  const low = Math.min(...values),
    high = Math.max(...values);
  if (unit !== "number" || !values.length || low <= 0 || high / low <= spread) return null;
  const decades = Math.log10(high / low),
    tickvals = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const factor of decades < 3.5 ? [1, 2, 5] : [1]) tickvals.push(+`${factor}e${power}`);
  return {
    tickmode: "array",
    tickvals,
    ticktext: tickvals.map(value => (value >= 0.001 && value < 10000 ? String(value) : value.toExponential(0))),
  };
}

const ID_LABEL = "same probe on held-out ID"; // once for all runs: each has it in its colour
function transferFigure() {
  const chosen = setsOf("transferset", "transfer");
  const figure = depthFigure("transfer", state.transfermetric, state.probe, chosen);
  if (state.transfermetric !== "accuracy") return figure;
  // The same probe on ID: what transfer is lost against.
  const sets = has("accuracy", "datasets");
  DATA.runs.forEach((_, run) =>
    sets.slice(0, 1).forEach(dataset => {
      const points = tapPoints(`${run} accuracy ${dataset} ${state.probe} accuracy`);
      if (points.length > 1) {
        const style = { color: SEVERAL ? styleOf(run, 0).color : css("--muted"), symbol: "line-ew-open", dash: "dot" };
        const trace = lineTrace(nameOf(run, ID_LABEL), style, points, "percent");
        figure.traces.push({ ...trace, label: ID_LABEL, style: { ...style, color: css("--muted") } });
      }
    }),
  );
  return figure;
}

/** Of points of one name above each other the highest alone keeps it: names do not overlap. */
function nameOnce(traces) {
  const highest = {};
  const key = (trace, i) => `${trace.x[i]} ${trace.text[i]}`;
  for (const trace of traces)
    trace.text.forEach((_, i) => (highest[key(trace, i)] = Math.max(trace.y[i], highest[key(trace, i)] ?? -Infinity)));
  for (const trace of traces)
    trace.text = trace.text.map((name, i) => (trace.y[i] === highest[key(trace, i)] ? name : ""));
}

/** Collapse against an error, a point a tap; lines join the taps in depth order. */
function tradeFigure(kind, choice, metric, method, error, turned) {
  const traces = [],
    split = collapseSplit(),
    sets = setsOf(choice, kind),
    unit = metricOf(state.collapse).unit;
  DATA.runs.forEach((_, run) =>
    sets.forEach((dataset, variant) => {
      const points = DATA.taps
        .map((name, tap) => {
          const x = at(`${run} collapse ${split} 0 ${state.collapse}`, tap),
            y = at(`${run} ${kind} ${dataset} ${method} ${metric}`, tap);
          return x && y && x.value !== null && y.value !== null
            ? {
                name,
                x: x.value,
                y: turned ? 1 - y.value : y.value,
                low: turned ? flip(y.high) : y.low,
                high: turned ? flip(y.low) : y.high,
              }
            : null;
        })
        .filter(Boolean);
      if (!points.length) return;
      const style = styleOf(run, variant, sets.length),
        name = nameOf(run, sets.length > 1 || !SEVERAL ? setLabel(dataset) : "");
      const last = points.length - 1;
      traces.push({
        type: "scatter",
        mode: sets.length * DATA.runs.length > 4 ? "markers" : "lines+markers+text",
        name: escaped(name),
        label: name,
        style,
        x: points.map(p => scaled(p.x, unit)),
        y: points.map(p => 100 * p.y),
        text: points.map((p, i) => (i === last || i === 0 || p.name === "encoder" ? escaped(short(p.name, 14)) : "")),
        textposition: "top center",
        textfont: { color: style.color, size: 11 },
        cliponaxis: false,
        customdata: points.map(
          p =>
            `${escaped(p.name)}<br>${escaped(labelOf(state.collapse))} ${show(p.x, unit)}<br>` +
            `${escaped(labelOf(error))} ${show(p.y, "percent")} % ${showInterval(p.low, p.high, "percent")}`,
        ),
        hovertemplate: `<b>${escaped(name)}</b><br>%{customdata}<extra></extra>`,
        line: { color: style.color, dash: style.dash, width: 1 },
        marker: { color: style.color, symbol: style.symbol, size: 10 },
      });
    }),
  );
  nameOnce(traces);
  const values = traces.flatMap(trace => trace.x);
  const log = logTicksFor(values, unit, 8);
  return {
    traces,
    layout: {
      hovermode: "closest",
      xaxis: valueAxis(axisTitle(state.collapse), log),
      yaxis: valueAxis(`${labelOf(error)}, %`),
    },
    // The relations are of collapse on ID train: beside points of another split they would be another's numbers.
    note: DATA.datasets[split]?.name === "id_train" ? relationNote(kind, error, DATA.methods[method]) : "",
  };
}
const flip = value => (value === null || value === undefined ? null : 1 - value);
const collapseSplit = () => (state.split === "each" ? idSplits[0] : +state.split);

/** What the relation table says about a scatter plot. */
function relationNote(kind, error, method) {
  const found = Object.entries(DATA.relations)
    .map(([key, rows]) => [key, rows[`${kind} ${error} ${method} 0 ${state.collapse}`]])
    .filter(([, row]) => row)
    .map(([key, row]) => {
      const who = DATA.runs[key] ? (SEVERAL ? DATA.runs[key].name : "") : "all runs";
      const value = row[0] === null ? `undefined (${row[9]})` : show(row[0], "correlation");
      const size = row[0] === null ? "" : `(n = ${row[6]})`;
      return [who, value, showInterval(row[1], row[2], "correlation"), size].filter(Boolean).join(" ");
    });
  return found.length ? `Pearson correlation over pairs of tap and set: ${found.join("; ")}.` : "";
}
