"use strict";
// Which decisions are shown, how many there are, and what is taken home of them.

const filters = $("filters");

// The filters as the service is asked.
function query() {
  const given = new FormData(filters), asked = new URLSearchParams();
  for (const verdict of given.getAll("verdict")) asked.append("verdict", verdict);
  for (const name of ["mark", "lowest", "highest", "model", "order"]) if (given.get(name)) asked.set(name, given.get(name));
  const span = given.get("span");
  if (span === "own") {
    for (const name of ["since", "until"]) if (given.get(name)) asked.set(name, new Date(given.get(name)).toISOString());
  } else if (span) asked.set("since", new Date(Date.now() - 3_600_000 * span).toISOString());
  return asked;
}

async function loadSummary() {
  const known = await (await asked("")).json();
  review.mayMark = known.may_mark;
  $("review-on").hidden = !known.enabled;
  $("review-off").hidden = known.enabled;
  $("review-why").textContent = known.reason ?? "";
  if (!known.enabled) return false;
  const count = wanted => known.counts.filter(wanted).reduce((sum, one) => sum + one.count, 0).toLocaleString();
  const verdicts = ["NG", "REVIEW", "OK", "INVALID"].map(verdict => `${count(one => one.verdict === verdict)} ${verdict}`);
  $("tally").textContent = `${count(() => true)} decisions: ${verdicts.join(", ")}. Marked: ${count(one => one.mark !== null)}.`;
  $("policy").textContent = policy(known.images);
  $("who-label").hidden = $("undo").hidden = !known.may_mark;
  return true;
}

function policy(images) {
  const which = { all: "All images are kept", flagged: "Images of NG and REVIEW are kept", none: "No images are kept" }[images.keep];
  const size = bytes => `${number(bytes / 1e6)} MB`;
  const gone = images.removed ? ` ${images.removed.toLocaleString()} were deleted because of the limit, the oldest without a mark first.` : "";
  const full = images.full ? " Marked images alone fill it: no further image is kept." : "";
  return images.keep === "none" ? `${which}.` : `${which}: ${images.images.toLocaleString()}, ${size(images.bytes)} of ${size(images.max_bytes)}.${gone}${full}`;
}

function listModels() {
  const chosen = filters.elements.model.value;
  filters.elements.model.replaceChildren(new Option("all", ""), ...state.models.map(model => new Option(model.name)));
  filters.elements.model.value = chosen;
  $("filter-model").hidden = state.models.length < 2;
}

async function saveAs(path, name) {
  try {
    const url = URL.createObjectURL(await (await asked(path)).blob()), link = make("a");
    Object.assign(link, { href: url, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  } catch (error) {
    reviewTrouble(error.message);
  }
}

if (matchMedia("(max-width: 48rem)").matches) $("filter-part").open = false;
let typing;
const showSpan = () => { $("own-span").hidden = filters.elements.span.value !== "own"; };
filters.addEventListener("input", event => {
  showSpan();
  clearTimeout(typing);
  typing = setTimeout(reload, event.target.matches("input[type=number], input[type=datetime-local]") ? 400 : 0);
});
filters.addEventListener("reset", () => setTimeout(() => { // the fields are empty only after the event
  showSpan(); // one may have been chosen since
  reload();
}));
filters.addEventListener("submit", event => event.preventDefault());
$("get-marks").addEventListener("click", () => saveAs("/marks.csv", "marks.csv"));
$("get-manifest").addEventListener("click", () => {
  const model = filters.elements.model.value;
  saveAs(`/manifest.csv${model ? `?model=${encodeURIComponent(model)}` : ""}`, "manifest.csv");
});
