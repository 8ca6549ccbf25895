// The figures of scores and of training, and the list of all figures.
"use strict";
function scoresFigure(run) {
  const tap = tapOf("scoretap", run);
  const rows = DATA.histograms.filter(row => row[0] === run && row[1] === tap && String(row[2]) === state.detector);
  let variant = 0;
  const traces = rows.map(([, , , name, ends, counts]) => {
    const isId = name in SPLITS,
      total = counts.reduce((sum, count) => sum + count, 0) || 1;
    const edges =
      ends.length === counts.length + 1
        ? ends
        : counts.map((_, i) => ends[0] + (i * (ends[1] - ends[0])) / counts.length).concat(ends[1]);
    const index = variant++,
      ordered = [1, 0, 2, 3, 4, 5, 7];
    const style = isId
      ? { color: css("--c6"), dash: "solid", symbol: "square" }
      : { color: css(`--c${ordered[(index - 1 + 7) % 7]}`), dash: DASHES[Math.max(index - 1, 0) % 6], symbol: "none" };
    const label = isId ? SPLITS[name] : name;
    return {
      type: "scatter",
      mode: "lines",
      name: escaped(label),
      label,
      style,
      x: edges,
      y: [...counts.map(count => (100 * count) / total), 0],
      line: { color: style.color, dash: style.dash, width: 2, shape: "hv" },
      fill: isId ? "tozeroy" : "none",
      fillcolor: isId ? `${css("--c6")}40` : undefined,
      hovertemplate: `${escaped(label)}: %{y:.1f} % of images<extra></extra>`,
    };
  });
  const what = `${DATA.taps[tap]}, ${chosenLabel("detector")}.`;
  return {
    traces,
    layout: {
      hovermode: "x",
      xaxis: { title: { text: "score" } },
      yaxis: { ...valueAxis("share of images, %"), rangemode: "tozero" },
    },
    note: traces.length ? what : `${what} No scores: not measured or undefined here.`,
  };
}

function curveFigure(wanted, title, unit = "number") {
  const traces = [],
    labels = [];
  let axis = "epoch";
  for (const run of DATA.runs)
    for (const [split, curve] of Object.entries(run.train.curves || {}))
      for (const name of Object.keys(curve.y)) {
        const label = wanted(split, name);
        if (label && !labels.includes(label)) labels.push(label);
      }
  DATA.runs.forEach((run, number) => {
    axis = run.train.unit || axis;
    for (const [split, curve] of Object.entries(run.train.curves || {}))
      for (const [name, values] of Object.entries(curve.y)) {
        const label = wanted(split, name);
        if (!label) continue;
        const points = curve.x.map((x, i) => ({ x, value: values[i] })).filter(point => point.value !== null);
        if (points.length)
          traces.push(
            lineTrace(
              nameOf(number, SEVERAL && labels.length === 1 ? "" : label),
              styleOf(number, labels.indexOf(label), labels.length),
              points,
              unit,
            ),
          );
      }
  });
  for (const trace of traces) {
    trace.marker.size = 5;
    trace.hovertemplate = `${trace.name}: %{text}<extra></extra>`;
  }
  return {
    traces,
    layout: { hovermode: "x unified", xaxis: { title: { text: axis }, rangemode: "tozero" }, yaxis: valueAxis(title) },
  };
}
const SPLIT_NAMES = { train: "training", val: "validation" };
const splitName = split => SPLIT_NAMES[split] || split;

const FIGURES = {
  collapse: { uses: ["collapse", "split"], draw: () => depthFigure("collapse", state.collapse, 0, collapseSets()) },
  detection: {
    uses: ["detector", "detection", "oodset"],
    draw: () => depthFigure("detection", state.detection, state.detector, setsOf("oodset", "detection")),
  },
  transfer: { uses: ["probe", "transfermetric", "transferset"], draw: transferFigure },
  "trade-detection": {
    uses: ["collapse", "split", "error", "detector", "oodset"],
    draw: () =>
      tradeFigure(
        "detection",
        "oodset",
        state.error === "1-auroc" ? "auroc" : state.error,
        state.detector,
        state.error,
        state.error === "1-auroc",
      ),
  },
  "trade-transfer": {
    uses: ["collapse", "split", "probe", "transferset"],
    draw: () => tradeFigure("transfer", "transferset", "accuracy", state.probe, "transfer_error", true),
  },
  loss: {
    uses: ["losspart"],
    draw: () =>
      curveFigure(
        (split, name) =>
          isLossPart(name) && (state.losspart === "all" || name === state.losspart) && `${splitName(split)}: ${name}`,
        "loss",
      ),
  },
  accuracy: {
    uses: [],
    draw: () => curveFigure((split, name) => name === "accuracy" && splitName(split), "accuracy, %", "percent"),
  },
  lr: { uses: [], draw: () => curveFigure((split, name) => name === "lr" && "learning rate", "learning rate") },
  control: {
    uses: [],
    draw: () =>
      curveFigure((split, name) => {
        const [kind, ...part] = name.split("/");
        return kind === "control" && part.pop() !== "weight" && name.slice(kind.length + 1).replaceAll("/", " ");
      }, "value"),
  },
  "control-weight": {
    uses: [],
    draw: () =>
      curveFigure(
        (split, name) => /^control.*weight$/.test(name) && name.split("/").slice(1, -1).join(" "),
        "weight",
      ),
  },
  "training-collapse": {
    uses: ["trainmetric", "traintap"],
    draw: () =>
      curveFigure(
        (split, name) => {
          const part = name.split("/"),
            tap = part.slice(1, -1).join("/");
          return (
            part[0] === "collapse" &&
            part[part.length - 1] === state.trainmetric &&
            (state.traintap === "each" || state.traintap === tap) &&
            tap
          );
        },
        axisTitle(state.trainmetric || ""),
        metricOf(state.trainmetric).unit,
      ),
  },
};
DATA.runs.forEach((_, run) => {
  FIGURES[`scores-${run}`] = { uses: ["scoretap", "detector"], draw: () => scoresFigure(run) };
});

/** What stands on an axis: numbers, or names as they are. */
const onAxis = value => (typeof value === "string" ? escaped(value) : value);

/** A figure of the paper: its traces as they came, in the page's colours. */
function paperFigure({ data, layout }) {
  const annotations = layout.annotations.map(one => ({ ...one, text: escaped(one.text).replaceAll("\n", "<br>"), font: { size: 11 } }));
  const traces = data.map(trace => {
    const color = css(`--c${trace.style.color}`);
    if (trace.type === "heatmap") {
      const scale = [[0, css("--paper")], [1, color]];
      const names = { x: trace.x.map(onAxis), y: trace.y.map(onAxis) };
      return { ...trace, ...names, style: { ...trace.style, color }, colorscale: scale };
    }
    return {
      ...trace,
      name: escaped(trace.label),
      text: trace.text.map(escaped),
      x: trace.x.map(onAxis),
      style: { ...trace.style, color },
      line: { ...trace.line, color, dash: trace.style.dash, width: 1.5 },
      marker: { ...trace.marker, color },
      fillcolor: `${color}40`,
      error_y: trace.error_y && { ...trace.error_y, color, thickness: 1.2 },
    };
  });
  const axes = {};
  for (const [key, axis] of Object.entries(layout).filter(([key]) => /^[xy]axis/.test(key)))
    axes[key] = {
      ...axis,
      title: { ...axis.title, text: escaped(axis.title.text) },
      ...(axis.categoryarray && { categoryarray: axis.categoryarray.map(onAxis) }),
    };
  return { traces, layout: { ...layout, ...axes, annotations } };
}
for (const [name, figure] of Object.entries(DATA.figures))
  FIGURES[`paper-${name}`] = { uses: [], draw: () => paperFigure(figure) };
