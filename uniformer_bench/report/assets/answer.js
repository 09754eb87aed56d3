// The pick under a budget (steps were worked out when the page was built), architectures and the viewer.
function fillSlots(root, words) {
  for (const slot of all("[data-slot]", root)) {
    const text = words[slot.dataset.slot] || "";
    if (slot.dataset.slot === "drawing") slot.innerHTML = text;
    else slot.textContent = text;
  }
}

function fillCard(card, number) {
  const words = number === null ? null : DATA.options[number];
  card.dataset.trial = number === null ? "" : number;
  card.querySelector(".none").hidden = words !== null;
  card.querySelector(".filled").hidden = words === null;
  if (words) fillSlots(card, words);
}

function showChoice(choice) {
  for (const card of all(".card")) fillCard(card, choice[card.dataset.role]);
  if (!byId("lede")) return; // a page of several runs
  const words = DATA.options[choice.pick];
  view.pick = choice.pick;
  fillSlots(byId("lede"), { ...words, sentence: words.sentence[0].toLowerCase() + words.sentence.slice(1) });
}

function choiceWithin(key, limit) {
  const steps = DATA.ladders[key].filter((step) => step[0] <= limit * (1 + 1e-9));
  if (!steps.length) return null;
  return Object.fromEntries(DATA.cards.map((name, i) => [name, steps[steps.length - 1][i + 1]]));
}

// The slider runs from the least to the most that any finished trial needs, by equal ratios.
function budgetEnds(key) {
  const values = TRIALS.filter((t) => t.state === "complete").map((t) => value(t, key)).filter((v) => v !== null && v > 0);
  return [Math.min(...values), Math.max(...values)];
}

function applyBudget() {
  const key = byId("budget-metric").value, typed = byId("budget-limit").value, { scale, unit, label } = METRICS[key];
  const says = byId("budget-says");
  if (typed === "" || !Number.isFinite(Number(typed))) {
    says.textContent = "";
    if (byId("rule")) byId("rule").hidden = false;
    byId("answer").classList.remove("nothing");
    return showChoice(DATA.choice);
  }
  const choice = choiceWithin(key, Number(typed) / scale);
  const least = DATA.ladders[key][0][0] * scale;
  says.textContent = choice ? `the best in ${METRICS[DATA.axes.quality].label} with ${label} at most ${typed} ${unit}`
    : `nothing fits: the least is ${figure(least)} ${unit}`;
  if (byId("rule")) byId("rule").hidden = true;
  byId("answer").classList.toggle("nothing", choice === null);
  if (choice) showChoice(choice);
}

function slideBudget() {
  const [low, high] = budgetEnds(byId("budget-metric").value), share = byId("budget-range").value / 1000;
  const limit = low * Math.pow(high / low, share);
  const digit = Math.pow(10, Math.floor(Math.log10(limit)) - 2); // three digits, rounded up: what is there must fit
  byId("budget-limit").value = Number((Math.ceil(limit / digit - 1e-9) * digit).toPrecision(3));
  applyBudget();
}

function moveSlider() {
  const [low, high] = budgetEnds(byId("budget-metric").value), typed = Number(byId("budget-limit").value);
  const share = typed > 0 && high > low ? Math.log(typed / low) / Math.log(high / low) : 1;
  byId("budget-range").value = Math.round(1000 * Math.min(1, Math.max(0, share)));
}

function startAnswer() {
  const form = byId("budget");
  if (!form) return;
  byId("budget-range").addEventListener("input", slideBudget);
  byId("budget-limit").addEventListener("input", () => { moveSlider(); applyBudget(); });
  byId("budget-metric").addEventListener("change", () => { byId("budget-limit").value = ""; moveSlider(); applyBudget(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(applyBudget));
  form.addEventListener("input", redrawSoon);
  form.addEventListener("reset", redrawSoon);
}

// Two panes: what has the same key on both sides and reads differently is marked.
function markDifferences() {
  const text = (side, key) => byId(`pane-${side}`).querySelector(`[data-k="${key}"]`)?.textContent;
  for (const [side, other] of [["a", "b"], ["b", "a"]]) {
    for (const mark of all(".drawing [data-k]", byId(`pane-${side}`))) {
      mark.classList.toggle("differs", mark.textContent !== text(other, mark.dataset.k));
    }
  }
}

function showPane(side, number) {
  const pane = byId(`pane-${side}`);
  pane.querySelector("select").value = number;
  pane.querySelector(".body").innerHTML = DATA.archs[number];
  for (const small of all("[data-pane]")) {
    small.setAttribute("aria-pressed", String(small.dataset.pane === byId("pane-a").querySelector("select").value));
  }
  markDifferences();
}

function startPanes() {
  for (const side of ["a", "b"]) {
    const pane = byId(`pane-${side}`);
    if (!pane) return;
    const chooser = pane.querySelector("select");
    chooser.addEventListener("change", () => showPane(side, chooser.value));
    showPane(side, chooser.value);
  }
}

// The viewer: a trial's architecture, where the page carries it, and every cell of its row.
function openTrial(number) {
  const trial = BY_NUMBER.get(Number(number)), body = byId("viewer-body");
  byId("viewer-title").textContent = `${trialTitle(trial)} ${trial.pattern}`;
  body.innerHTML = DATA.archs[trial.number] || "";
  const note = trial.reason || trial.row[column.reason];
  body.prepend(element("p", trial.state + (note ? `: ${note}` : ""), { class: "note" }));
  body.append(rowFacts(trial));
  byId("viewer").showModal();
}

function rowFacts(trial) {
  const list = element("dl", "", { class: "numbers" });
  DATA.columns.forEach((name, i) => {
    if (trial.row[i] === null || name === "reason") return;
    const item = list.appendChild(element("div"));
    item.append(element("dt", name), element("dd", trial.row[i]));
  });
  const box = element("details");
  box.append(element("summary", "Every value, in the units of trials.csv"), list);
  return box;
}

function startViewer() {
  document.addEventListener("click", (event) => {
    const target = event.target.closest("button");
    if (!target) return;
    const { open, pane } = target.dataset;
    if (open !== undefined) openTrial(open);
    if (pane !== undefined) showPane("a", pane);
    if ("openCard" in target.dataset) openTrial(target.closest(".card").dataset.trial);
    if ("copy" in target.dataset) copyFrom(target);
    if ("close" in target.dataset) byId("viewer").close();
  });
  byId("viewer").addEventListener("click", (event) => { if (event.target === byId("viewer")) byId("viewer").close(); });
}
