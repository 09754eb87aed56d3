// The table of trials: numeric sorting with what is missing last, filters, the plot's selection, downloads.
const FEW_ROWS = 100;
const sorting = { key: "number", down: false, everything: false };

function tableColumns() {
  const metrics = Object.keys(METRICS).filter((key) => TRIALS.some((t) => value(t, key) !== null));
  const made = [
    { key: "number", title: "trial", text: false, of: (t) => t.number, show: (n) => BY_NUMBER.get(n).label },
    { key: "state", title: "state", text: true, of: (t) => t.state },
    { key: "pattern", title: "pattern", text: true, of: (t) => t.pattern || null },
    { key: "baseline", title: "baseline", text: true, of: (t) => t.baseline },
    ...metrics.map((key) => ({ key, title: axisTitle(key), text: false, of: (t) => value(t, key), show: (v) => (METRICS[key].unit === "%" ? v.toFixed(1) : figure(v)) })),
    { key: "reason", title: "reason", text: true, of: (t) => t.row[column.reason] },
  ];
  const params = DATA.columns.filter((name) => name.startsWith("param_"));
  const more = params.map((name) => ({ key: name, title: name.slice(6), text: true, of: (t) => t.row[column[name]] }));
  const used = made.filter((c) => !["baseline", "reason"].includes(c.key) || TRIALS.some((t) => c.of(t) !== null));
  return byId("trial-params").checked ? [...used, ...more] : used;
}

function inOrder(a, b) {
  if (a === null || b === null) return (a === null) - (b === null); // missing last, whichever way
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return sorting.down ? -order : order;
}

function matches(trial, state, words) {
  if (state === "front" ? !trial.front : state && trial.state !== state) return false;
  if (view.selected && !view.selected.has(trial.number)) return false;
  if (!inRanges(trial)) return false;
  if (!words.length) return true;
  trial.text ??= [trial.pattern, ...trial.row.map((cell) => (cell === null ? "" : cell))].join(" ").toLowerCase();
  return words.every((word) => trial.text.includes(word));
}

function visibleTrials() {
  const words = byId("trial-search").value.toLowerCase().split(/\s+/).filter(Boolean), state = byId("trial-state").value;
  return TRIALS.filter((trial) => matches(trial, state, words));
}

function filtersOn() {
  return view.selected !== null || ranges.size > 0 || byId("trial-search").value.trim() !== "" || byId("trial-state").value !== "";
}

function headerCell(given) {
  const direction = sorting.key !== given.key ? "none" : sorting.down ? "descending" : "ascending";
  const cell = element("th", null, { scope: "col", "aria-sort": direction, class: given.text ? "text" : "" });
  const button = cell.appendChild(element("button", given.title, { type: "button", "data-key": given.key }));
  button.addEventListener("click", () => {
    sorting.down = sorting.key === given.key && !sorting.down;
    sorting.key = given.key;
    drawTable();
    byId("trial-table").querySelector(`[data-key="${CSS.escape(given.key)}"]`).focus();
  });
  return cell;
}

function bodyCell(trial, given) {
  const got = given.of(trial);
  if (given.key === "number") {
    const cell = element("td");
    cell.append(element("button", trial.label, { type: "button", class: "link", "data-open": got }));
    return cell;
  }
  const text = got === null ? MISSING : given.show ? given.show(got) : String(got);
  const cell = element("td", text, { class: given.key === "pattern" ? "pattern" : given.text ? "text" : "" });
  if (given.text && text.length > 30) cell.title = text;
  return cell;
}

function bodyRow(trial, columns) {
  const row = element("tr", null, { class: trial.front ? "front" : "" });
  row.append(...columns.map((given) => bodyCell(trial, given)));
  return row;
}

function drawTable() {
  const columns = tableColumns(), table = byId("trial-table"), found = visibleTrials();
  const by = columns.find((given) => given.key === sorting.key) || columns[0];
  found.sort((a, b) => inOrder(by.of(a), by.of(b)) || a.number - b.number);
  const listed = sorting.everything ? found : found.slice(0, FEW_ROWS);
  const head = element("tr");
  head.append(...columns.map(headerCell));
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(...listed.map((trial) => bodyRow(trial, columns)));
  tellCount(found.length, listed.length);
}

function tellCount(found, listed) {
  byId("trial-count").textContent = `${found} of ${TRIALS.length} trials${selectionWords()}. Front members are bold.`;
  byId("trial-more").hidden = listed === found;
  byId("trial-more").textContent = `Show all ${found} rows`;
  byId("trial-clear").hidden = !view.selected && !ranges.size;
}

function selectionWords() {
  const made = [...(view.selected ? ["the front’s plot"] : []), ...(ranges.size ? ["the parallel coordinates"] : [])];
  return made.length ? `, of those selected in ${made.join(" and ")}` : "";
}

// Every filter acts on the table and, when the hand rests, on the parallel coordinates and the front.
function refilter() {
  drawTable();
  drawParallelSoon();
  redrawSoon();
}

function clearSelections() {
  view.selected = null;
  clearRanges();
  refilter();
}

// As trials.csv: text that a spreadsheet would run as a formula is quoted by '.
function csvCell(cell) {
  if (cell === null) return "";
  const text = typeof cell === "string" && /^[=+\-@\t\r]/.test(cell) ? `'${cell}` : String(cell);
  return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

function csvText() {
  return [DATA.columns, ...DATA.rows].map((row) => row.map(csvCell).join(",") + "\n").join("");
}

function jsonText() {
  const rows = DATA.rows.map((row) => Object.fromEntries(DATA.columns.map((name, i) => [name, row[i]])));
  return JSON.stringify(rows, null, 1) + "\n";
}

function select(numbers) {
  view.selected = numbers && numbers.length ? new Set(numbers) : null;
  drawTable();
  drawParallelSoon();
}

function startTable() {
  for (const id of ["trial-search", "trial-state"]) byId(id).addEventListener("input", refilter);
  byId("trial-params").addEventListener("input", drawTable);
  byId("trial-filters").addEventListener("submit", (event) => event.preventDefault());
  byId("trial-clear").addEventListener("click", clearSelections);
  byId("trial-more").addEventListener("click", () => { sorting.everything = true; drawTable(); });
  byId("save-csv").addEventListener("click", () => save(`${DATA.name}-trials.csv`, csvText(), "text/csv"));
  byId("save-json").addEventListener("click", () => save(`${DATA.name}-trials.json`, jsonText(), "application/json"));
  drawTable();
}
