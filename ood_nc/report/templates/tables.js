// Tables: filling them for the reader's choices, marking the best, sorting.
"use strict";
function fillCell(cell, entry, unit) {
  cell.textContent = entry ? show(entry.value, unit) : DASH;
  const interval = entry && entry.value !== null ? showInterval(entry.low, entry.high, unit) : "";
  if (interval) {
    const span = document.createElement("span");
    span.className = "interval";
    span.textContent = interval;
    cell.append(" ", span);
  }
  cell.dataset.v = entry && entry.value !== null ? entry.value : "";
  cell.classList.toggle("undefined", !entry || entry.value === null);
  if (cell.classList.contains("mean")) cell.dataset.sets = (entry && entry.n) || "";
  cell.title = !entry
    ? "not measured"
    : entry.value === null
      ? `undefined: ${entry.reason || "no reason given"}`
      : entry.n === null || entry.n === undefined
        ? ""
        : cell.classList.contains("mean")
          ? `mean of ${entry.n} set${entry.n === 1 ? "" : "s"}`
          : `n = ${entry.n}`;
}

/** Fills every cell of a table whose address holds a choice (a tap, a split, the metrics). */
function fillMeasurements(table, metrics = []) {
  for (const cell of table.querySelectorAll("td[data-k]")) {
    const part = cell.dataset.k.split(" "),
      run = +part[0];
    if (part[2] === "*split") part[2] = collapseSplit();
    if (part[4].startsWith("*m") && metrics.length) part[4] = metrics[+part[4].slice(2)];
    if (part[4].startsWith("*m")) part[4] = headOf(table, cell).dataset.metric;
    const tap = part[5] === "*tap" ? tapOf("tap", run) : +part[5];
    fillCell(cell, part[4] ? at(part.slice(0, 5).join(" "), tap) : null, metricOf(part[4]).unit);
  }
  markBest(table);
  resort(table);
}
const headsOf = table => table.tHead.rows[table.tHead.rows.length - 1].cells;
/** The last header above a cell of a pivot table; its first column has a header of three rows. */
const headOf = (table, cell) => headsOf(table)[cell.cellIndex - 1];

function fillDetectors() {
  const names = readData(detectorTable, "pairs")[+state.pair] || [];
  for (const head of detectorTable.querySelectorAll("th[data-slot]")) {
    const name = names[+head.dataset.slot] || "";
    head.dataset.metric = name;
    head.querySelector("button").textContent = name ? labelOf(name) : DASH;
  }
  fillMeasurements(detectorTable, names);
}

// What a score that knows nothing reaches: the best of a column is not marked where it is no better.
const CHANCE = { auroc: 0.5, fpr95_id_positive: 0.95, fpr95_ood_positive: 0.95, fpr95_paper: 0.95 };

function markBest(table) {
  if (!("best" in table.dataset)) return;
  const rows = [...table.tBodies[0].rows];
  [...headsOf(table)].forEach((head, position) => {
    const { better } = metricOf(head.dataset.metric);
    // A mean over fewer sets than another may be over the easier ones.
    const cells = rows.map(row => row.cells[position + 1]);
    const sets = cell => (cell.dataset.v === "" ? 0 : +(cell.dataset.sets || 0));
    const most = Math.max(...cells.map(sets));
    const known = cells.filter(cell => cell.dataset.v !== "" && sets(cell) === most);
    const values = known.map(cell => +cell.dataset.v);
    const best = better === "lower" ? Math.min(...values) : better === "higher" ? Math.max(...values) : NaN;
    const chance = CHANCE[head.dataset.metric];
    const none = chance !== undefined && (better === "lower" ? best >= chance : best <= chance);
    for (const cell of cells) {
      const isBest = !none && values.length > 1 && known.includes(cell) && +cell.dataset.v === best;
      cell.classList.toggle("best", isBest);
      cell.querySelectorAll(".vh").forEach(span => span.remove());
      if (isBest) cell.insertAdjacentHTML("beforeend", '<span class="vh"> (best of the column)</span>');
    }
  });
}

function fillRelations() {
  const rows = DATA.relations[state.relset] || {};
  const chosen = {
    detection: [state.error, DATA.methods[state.detector]],
    transfer: ["transfer_error", DATA.methods[state.probe]],
  };
  const places = { pearson: 0, spearman: 3, n: 6, pearson_within_depth: 7, pearson_across_runs: 8 };
  for (const cell of relationTable.querySelectorAll("td[data-k]")) {
    const [kind, name, x] = cell.dataset.k.split(" ");
    const row = rows[`${kind} ${chosen[kind].join(" ")} ${state.scale} ${x}`];
    const place = places[name];
    if (name === "n") {
      cell.textContent = row ? row[place] : DASH;
      cell.dataset.v = row ? row[place] : "";
      continue;
    }
    const wide = place < 6;
    fillCell(
      cell,
      row
        ? {
            value: row[place],
            low: wide ? row[place + 1] : null,
            high: wide ? row[place + 2] : null,
            n: row[6],
            reason: row[9],
          }
        : null,
      "correlation",
    );
  }
  for (const head of relationTable.querySelectorAll("[data-relation-of]")) {
    const [error, method] = chosen[head.dataset.relationOf];
    head.textContent = `${labelOf(error)}, ${method}`;
  }
  resort(relationTable);
}

function showPlace() {
  for (const row of differenceTable.tBodies[0].rows) row.hidden = row.dataset.place !== state.place;
}

/** Sorts by a column: first click the better end, second the other; undefined last always. */
function sortBy(button) {
  const head = button.closest("th"),
    table = button.closest("table"),
    before = head.getAttribute("aria-sort");
  const descending = before === "none" ? metricOf(head.dataset.metric).better === "higher" : before === "ascending";
  for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  resort(table);
}

function resort(table) {
  const head = table.querySelector('th[aria-sort="ascending"], th[aria-sort="descending"]');
  if (!head) return;
  const column = +head.querySelector(".sort").dataset.column,
    turn = head.getAttribute("aria-sort") === "descending" ? -1 : 1;
  const key = row => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent : cell.dataset.v === "" ? null : +cell.dataset.v;
  };
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const x = key(a),
      y = key(b);
    if (x === null || y === null) return (x === null) - (y === null);
    return turn * (typeof x === "string" ? x.localeCompare(y) : x - y);
  });
  table.tBodies[0].append(...rows);
}

function setUpTables() {
  for (const button of document.querySelectorAll("button.sort")) {
    button.closest("th").setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sortBy(button));
  }
  const probes = document.getElementById("table-probes"),
    collapse = document.getElementById("table-collapse");
  if (detectorTable) {
    onChange(["tap", "pair"], fillDetectors);
    markBest(detectorTable);
  }
  if (probes) {
    onChange(["tap"], () => fillMeasurements(probes));
    markBest(probes);
  }
  if (collapse)
    onChange(["split"], () => {
      fillMeasurements(collapse);
      collapse.querySelector("[data-shown]").textContent = DATA.datasets[collapseSplit()].name;
    });
  if (relationTable) onChange(["relset", "scale", "error", "detector", "probe"], fillRelations);
  if (differenceTable) onChange(["place"], showPlace);
}
