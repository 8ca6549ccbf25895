// Draws the figures, follows light, dark and print.
"use strict";
const hiddenNames = {};
const coarse = matchMedia("(pointer: coarse)").matches;
const CONFIG = {
  responsive: true,
  displaylogo: false,
  displayModeBar: coarse ? false : "hover",
  modeBarButtons: [["toImage", "resetScale2d"]],
  toImageButtonOptions: { format: "svg" },
};

/** The axes of every panel in the page's style. */
function axesOf(layout, axis) {
  const names = Object.keys(layout).filter(key => /^[xy]axis/.test(key));
  const styled = name =>
    name[0] === "x"
      ? { ...axis, showline: true, ...layout[name] }
      : { ...axis, ...layout[name], automargin: names.length > 2 };
  return Object.fromEntries(names.map(name => [name, styled(name)]));
}

function baseLayout(layout, size) {
  const ink = css("--ink"),
    grid = css("--grid"),
    line = css("--rule");
  const axis = { gridcolor: grid, linecolor: line, zeroline: false, color: ink, ticks: "", automargin: true };
  return {
    ...layout,
    ...size,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    showlegend: false,
    dragmode: coarse ? false : "zoom",
    font: { family: css("--sans"), size: printing ? 9 : 12, color: ink },
    margin: { l: 64, r: 18, t: layout.annotations ? 50 : 14, b: 30 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--muted"), activecolor: ink },
    hoverlabel: { bgcolor: css("--paper"), bordercolor: line, font: { color: ink, size: 12 } },
    ...axesOf(layout, axis),
  };
}

function draw(id) {
  const chart = document.getElementById(`chart-${id}`);
  const { traces, layout, note } = FIGURES[id].draw();
  const off = hiddenNames[id] || (hiddenNames[id] = new Set());
  for (const trace of traces) trace.visible = off.has(trace.label) ? "legendonly" : true;
  const half = chart.closest(".half, html:not(.deep) .views") !== null;
  const width = half ? PAPER / 2 - 12 : PAPER;
  document.getElementById(`note-${id}`).textContent = note ? ` ${note}` : "";
  drawLegend(
    id,
    traces.filter(trace => trace.type !== "heatmap"),
    off,
  );
  chart.hidden = traces.length === 0;
  if (layout.height) chart.style.height = `${layout.height}px`;
  if (traces.length)
    Plotly.react(
      chart,
      traces.map(({ label, style, ...trace }) => trace),
      baseLayout(layout, printing ? { width, height: chart.clientHeight } : {}),
      CONFIG,
    );
}

const DASH_ARRAYS = {
  solid: "",
  dash: "6 4",
  dot: "2 3",
  dashdot: "6 3 2 3",
  longdash: "10 4",
  longdashdot: "10 3 2 3",
};
const SHAPES = {
  circle: "M16 3a4 4 0 1 0 .01 0z",
  diamond: "M16 2l5 5-5 5-5-5z",
  square: "M12 3h8v8h-8z",
  "triangle-up": "M16 2l5 9H11z",
  cross: "M14.500 2h3v3.500H21v3h-3.500V12h-3V8.500H11v-3h3.500z",
  "triangle-down": "M16 12l5-9H11z",
  pentagon: "M16 2l5 4-2 6h-6l-2-6z",
  star: "M16 2l1.500 3.500H21l-3 2.500 1 4-3-2.500-3 2.500 1-4-3-2.500h3.500z",
};

function drawLegend(id, traces, off) {
  const legend = document.getElementById(`legend-${id}`);
  const first = (trace, position) => traces.findIndex(other => other.label === trace.label) === position;
  legend.replaceChildren(
    ...traces.filter(first).map(({ label, style }) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-pressed", String(!off.has(label)));
      button.innerHTML =
        `<svg viewBox="0 0 32 14" aria-hidden="true" style="color:${style.color}">` +
        `<path d="M1 7h30" fill="none" stroke="currentColor" stroke-width="2" ` +
        `stroke-dasharray="${DASH_ARRAYS[style.dash]}"/>` +
        `<path d="${SHAPES[style.symbol] || ""}" fill="currentColor"/></svg>`;
      button.append(label);
      button.addEventListener("click", () => {
        if (!off.delete(label)) off.add(label);
        draw(id);
        [...legend.children].find(child => child.textContent === label).focus();
      });
      return button;
    }),
  );
}

const present = Object.keys(FIGURES).filter(id => document.getElementById(`chart-${id}`));
const drawAll = () => present.forEach(draw);

document.documentElement.classList.toggle("deep", DATA.taps.length > 10);
setUpChoices();
setUpTables();
for (const id of present) onChange(FIGURES[id].uses, () => draw(id));

// One figure at a time, so that the page answers while it fills up.
const waiting = [...present];
function drawNext() {
  if (!waiting.length) {
    document.documentElement.dataset.ready = "true";
    return;
  }
  draw(waiting.shift());
  setTimeout(drawNext);
}
drawNext();

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
/** How wide the columns of a table are at least. */
function columnWidths(table) {
  const cells = [...table.tBodies[0].rows].find(row => !row.hidden)?.cells || [];
  Object.assign(table.style, { minWidth: "0", width: "min-content" });
  const widths = [...cells].map(cell => cell.offsetWidth);
  Object.assign(table.style, { minWidth: "", width: "" });
  return widths;
}
const fits = widths => widths.reduce((sum, width) => sum + width, 0) <= PAPER;

/** Fits a table to the paper: intervals beside their values, or below them, or the table in parts with its first column. */
function fitToPaper(table) {
  table.classList.add("beside");
  if (fits(columnWidths(table))) return;
  table.classList.remove("beside");
  const widths = columnWidths(table);
  if (fits(widths)) return;
  const parts = [];
  for (let from = 1, to = 1; from < widths.length; from = to) {
    for (let room = PAPER - widths[0]; to < widths.length && (to === from || room >= widths[to]); to++)
      room -= widths[to];
    parts.push(columnsOf(table, from, to));
  }
  parts.slice(1).forEach(part => {
    part.caption.textContent = "(continued)";
  });
  table.after(...parts);
  table.classList.add("split");
}

/** A copy of a table with its first column and those in [from, to). */
function columnsOf(table, from, to) {
  const copy = table.cloneNode(true);
  copy.removeAttribute("id");
  copy.classList.add("part");
  for (const row of copy.rows) {
    // In a head of several rows, the first column's header reaches down from the first.
    let column = row.parentElement === copy.tHead && row !== copy.tHead.rows[0] ? 1 : 0;
    for (const cell of [...row.cells]) {
      const start = column,
        end = (column += cell.colSpan);
      const kept = start === 0 ? 1 : Math.min(to, end) - Math.max(from, start);
      if (kept > 0) cell.colSpan = kept;
      else cell.remove();
    }
  }
  return copy;
}

/** What the reader chose, in words where the choices themselves are not printed. */
function tellChoices() {
  for (const controls of document.querySelectorAll(".controls")) {
    const told = document.createElement("p");
    told.className = "chosen part";
    const selects = [...controls.querySelectorAll("select")];
    told.textContent = selects.map(select => chosenLabel(select.dataset.control)).filter(Boolean).join(" · ");
    controls.after(told);
  }
}

/** Marks the legends that the next one repeats, so that paper has each once. */
function markRepeated() {
  const legends = [...document.querySelectorAll(".legend")].filter(one => one.children.length && !one.closest(".screen"));
  legends.forEach((legend, place) => {
    const next = legends[place + 1]?.children || [];
    legend.classList.toggle("repeated", [...legend.children].every((entry, i) => next[i]?.isEqualNode(entry)));
  });
}

function joinAfterPrint() {
  document.querySelectorAll(".part").forEach(part => part.remove());
  document.querySelectorAll("table").forEach(table => table.classList.remove("split", "beside"));
}

function setPrinting(on) {
  if (printing === on) return;
  printing = on;
  document.documentElement.classList.toggle("printing", on);
  for (const details of document.querySelectorAll("details")) {
    if (on) {
      details.dataset.was = details.open;
      details.open = true;
    } else details.open = details.dataset.was === "true";
  }
  if (on) {
    document.querySelectorAll("table.data:not(.words), .by-run").forEach(fitToPaper);
    tellChoices();
  } else joinAfterPrint();
  drawAll();
  markRepeated();
}
addEventListener("beforeprint", () => setPrinting(true));
addEventListener("afterprint", () => setPrinting(false));
matchMedia("print").addEventListener("change", event => setPrinting(event.matches));
