"use strict";
// Marks: what may be said of which verdict, saying it, and taking it back.

const review = { items: [], next: null, loading: 0, newer: 0, mayMark: false, shown: null, mine: [], urls: new Map() };

// By mark: its key, its name, and what it says of the part, by the verdict that it may stand on.
const MARKS = {
  right: { key: "R", name: "Right", says: { OK: "a good part", NG: "defective", INVALID: "no part to judge" } },
  false_alarm: { key: "F", name: "False alarm", says: { NG: "a good part", REVIEW: "a good part", INVALID: "a good part" } },
  missed_defect: { key: "M", name: "Missed defect", says: { OK: "defective", REVIEW: "defective", INVALID: "defective" } },
  not_a_part: {
    key: "N", name: "Not a part", says: { OK: "leave it out", NG: "leave it out", REVIEW: "leave it out", INVALID: "leave it out" },
  },
};
const markName = mark => mark === null ? "no mark" : MARKS[mark].name.toLowerCase();

class Refused extends Error {}  // with the service's own words

async function asked(path, options) {
  let answer;
  try {
    answer = await ask(`v1/review${path}`, options);
  } catch {
    throw new Refused("The service does not answer.");
  }
  if (!answer.ok) throw new Refused((await answer.json()).error);
  return answer;
}

// Take over what the service says of a decision's mark, unless a later mark is known: answers may overtake each other.
function learn(item, known) {
  if ((known.mark_id ?? 0) < (item.mark_id ?? 0)) return;
  Object.assign(item, { mark: known.mark, mark_id: known.mark_id });
  refreshCard(item);
  if (review.shown === item && known.history) showHistory(known.history);
}

async function setMark(item, mark, seen) {
  const who = $("who").value.trim();
  const body = JSON.stringify({ mark, who, seen });
  const headers = { "Content-Type": "application/json" };
  const known = await (await asked(`/decisions/${item.id}/marks`, { method: "POST", headers, body })).json();
  learn(item, known);
}

// Mark a decision; returns whether that is done. Tells why where it is not.
async function markIt(item, mark) {
  if (!review.mayMark || item.busy) return false;
  if (!(item.verdict in MARKS[mark].says)) {
    reviewTrouble(`${MARKS[mark].name} does not fit ${item.verdict}.`);
    return false;
  }
  if (!$("who").value.trim()) {
    askWho();
    return false;
  }
  item.busy = true;
  const seen = item.mark_id ?? 0;
  return inTurn(() => markNow(item, mark, seen));
}

// `seen` is the mark that the person saw: what comes meanwhile is not overwritten.
async function markNow(item, mark, seen) {
  const before = item.mark;
  try {
    await setMark(item, mark, seen);
    review.mine.push({ item, before });
    reviewSay(`Decision ${item.id}: ${markName(mark)}.`);
    return true;
  } catch (error) {
    await lost(item, error);
    return false;
  } finally {
    item.busy = false;
    undoable();
  }
}

// Marks and what takes them back are done in the order in which they were asked for.
let working = Promise.resolve();
function inTurn(work) {
  const done = working.then(work);
  working = done.catch(() => {});
  return done;
}

const undo = () => inTurn(undoLast);
async function undoLast() {
  const last = review.mine.pop();
  if (!last) return;
  try {
    await setMark(last.item, last.before, last.item.mark_id);
    reviewSay(`Taken back. Decision ${last.item.id}: ${markName(last.before)}.`);
    if ($("large").open) showLarge(last.item);
    else last.item.card?.querySelector("button").focus();
  } catch (error) {
    await lost(last.item, error);
  }
  undoable();
}

// Something came between, or the service is away: say so, and show the decision as it is now.
async function lost(item, error) {
  reviewTrouble(error.message);
  try {
    learn(item, await (await asked(`/decisions/${item.id}`)).json());
  } catch {
    // what was said above is all that is known
  }
}

function undoable() {
  for (const id of ["undo", "large-undo"]) $(id).disabled = !review.mine.length;
}

function askWho() {
  review.shown = null;  // the focus is not to go back to its card
  $("large").close();
  reviewTrouble("Enter your name first: it stands beside every mark that you set.");
  $("who").focus();
}

function reviewSay(text) {
  for (const id of ["review-state", "large-state"]) $(id).textContent = text;
  reviewTrouble("");
}

function reviewTrouble(text) {
  for (const id of ["review-trouble", "large-trouble"]) {
    $(id).textContent = text;
    $(id).hidden = !text;
  }
}

$("who").value = localStorage.getItem("who") ?? "";
$("who").addEventListener("change", () => {
  localStorage.setItem("who", $("who").value.trim());
  reviewTrouble("");
});
$("undo").addEventListener("click", undo);
$("large-undo").addEventListener("click", undo);
