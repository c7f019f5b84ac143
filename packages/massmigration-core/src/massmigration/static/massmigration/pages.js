"use strict";
// Updates the pages without a reload. They work without it; the server renders all texts and numbers.

const byId = (id) => document.getElementById(id);

// Prevents sending a form twice.
addEventListener("submit", (event) => {
  if (!event.target.matches("[data-mm-once]")) return;
  const button = event.target.querySelector("button[type=submit]");
  setTimeout(() => { button.disabled = true; });
});
addEventListener("pageshow", () => document.querySelectorAll("[data-mm-once] button").forEach((each) => { each.disabled = false; }));

// Escape closes an open confirmation and returns the focus to its button.
addEventListener("keydown", (event) => {
  const open = event.key === "Escape" && document.querySelector(".mm-verb[open]");
  if (!open) return;
  open.open = false;
  open.querySelector("summary").focus();
});

// Calls `step` repeatedly. It returns the milliseconds until the next call; 0 or less ends the calls. A hidden page waits.
function repeatedly(step, first) {
  let timer = 0;
  let isOver = !(first > 0);
  const run = async () => {
    if (document.hidden) return;
    const next = await step();
    isOver = !(next > 0);
    if (!isOver) timer = setTimeout(run, next);
  };
  if (!isOver) timer = setTimeout(run, first);
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden && !isOver) timer = setTimeout(run, 0);
  });
}

function replace(element, html) {
  if (element && element.mmHtml !== html && !element.contains(document.activeElement)) {
    element.innerHTML = html;
    element.mmHtml = html;
  }
}

// The page of a migration.
const live = document.querySelector("[data-mm-live]");
if (live) {
  const WINDOW = 30000;
  const MAX_POINTS = 120;
  const LONGEST = 30000;
  const samples = [];
  const rates = [];
  let failures = 0;
  let said = "";

  const remember = (sample) => {
    const last = samples[samples.length - 1];
    if (!sample || (last && last.at === sample.at)) return;
    if (last && (last.stage !== sample.stage || sample.done < last.done || sample.at < last.at)) samples.length = rates.length = 0;
    else if (last) rates.push((sample.done - last.done) * 1000 / (sample.at - last.at));
    samples.push(sample);
    while (samples.length > 2 && samples[1].at <= sample.at - WINDOW) samples.shift();
    while (rates.length > MAX_POINTS) rates.shift();
  };

  const draw = () => {
    const highest = Math.max(...rates);
    byId("mm-spark").hidden = rates.length < 3 || !(highest > 0);
    if (byId("mm-spark").hidden) return;
    const points = rates.map((rate, index) => `${(index * 300 / (rates.length - 1)).toFixed(1)},${(38 - rate * 34 / highest).toFixed(1)}`);
    byId("mm-spark").querySelector("polyline").setAttribute("points", points.join(" "));
  };

  const show = (found) => {
    for (const [name, html] of Object.entries(found.parts)) replace(byId(`mm-${name}`), html);
    const bar = byId("mm-progress");
    bar.parentElement.hidden = found.progress === null;
    if (found.progress !== null) bar.value = found.progress;
    byId("mm-percent").textContent = bar.textContent = found.percent;
    byId("mm-rows").textContent = found.rows;
    document.querySelectorAll("[data-mm-verb]").forEach((verb) => {
      const name = verb.dataset.mmVerb;
      const isShown = name === "recover" ? found.is_stuck : found.verbs.includes(name);
      // An element with the focus stays until it loses the focus; the server checks the action.
      if (isShown || !verb.contains(document.activeElement)) verb.hidden = !isShown;
      // A name that is typed confirms the status that the user has seen.
      const seen = verb.open ? null : verb.querySelector("input[name=seen]");
      if (seen) seen.value = found.seen;
    });
    document.querySelectorAll("[data-mm-question]").forEach((each) => {
      // A question that the user reads does not change.
      if (!each.closest("details[open]")) each.textContent = found.question;
    });
    // Announced at each tenth, and when the status changes.
    const step = `${found.status} ${found.is_stuck} ${Math.floor((found.progress || 0) / 100)}`;
    if (said && said !== step) byId("mm-said").textContent = found.said;
    said = step;
  };

  const [at, done, stage] = (live.dataset.mmSample || "").split(" ").map(Number);
  if (live.dataset.mmSample) remember({ at, done, stage });
  const step = async () => {
    try {
      const oldest = samples[0];
      const query = oldest ? `?at=${oldest.at}&done=${oldest.done}` : "";
      const answer = await fetch(live.dataset.mmLive + query, { headers: { Accept: "application/json" }, credentials: "same-origin" });
      if (!answer.ok) throw new Error(answer.status);
      const found = await answer.json();
      failures = 0;
      byId("mm-offline").hidden = true;
      remember(found.sample);
      show(found);
      draw();
      return found.poll;
    } catch {
      failures += 1;
      byId("mm-offline").hidden = failures < 2;
      return Math.min(1000 * 2 ** failures, LONGEST);
    }
  };
  repeatedly(step, Number(live.dataset.mmPoll));
}

// The list: fetched again while a migration is active.
const list = document.querySelector("[data-mm-refresh]");
if (list) {
  const interval = Number(list.dataset.mmRefresh);
  repeatedly(async () => {
    try {
      const answer = await fetch(location.href, { credentials: "same-origin" });
      if (!answer.ok || answer.redirected) return interval * 2;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const id of ["mm-now", "mm-all"]) replace(byId(id), page.getElementById(id).innerHTML);
      return page.querySelector("[data-mm-refresh]") ? interval : 0;
    } catch {
      return interval * 2;
    }
  }, interval);
}
