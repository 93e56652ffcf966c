"use strict";
// One decision at large: the image with its heatmap, outlines and zoom, what was said of it, and the marks.

const zoom = new Zoom($("large-image"), $("stage"));

for (const [mark, { key, name }] of Object.entries(MARKS)) {
  const button = make("button");
  button.type = "button";
  button.dataset.mark = mark;
  button.setAttribute("aria-keyshortcuts", key);
  const title = make("b", name);
  title.append(" ", make("kbd", key));
  button.append(title, make("span"));
  button.addEventListener("click", () => markShown(mark));
  $("marks").append(button);
}

async function showLarge(item) {
  const other = review.shown !== item;
  review.shown = item;
  if (!$("large").open) $("large").showModal();
  describeLarge(item);
  if (other) {
    zoom.fit();
    $("large-original").hidden = $("large-heat").hidden = true;
    $("large-outlines").replaceChildren();
    $("large-regions").tBodies[0].replaceChildren();
    $("history-part").hidden = true;
  }
  try {
    const known = await (await asked(`/decisions/${item.id}`)).json();
    learn(item, known);
    if (review.shown !== item) return;  // gone on in the meantime
    $("stage").style.setProperty("--aspect", known.width / known.height);
    $("large-name").textContent = `${item.name}, ${known.width} × ${known.height} pixels, ${new Date(item.time).toLocaleString()}, ` +
      `decision ${item.id} of ${item.model}, version ${item.model_id}`;
    showRegions(known, $("large-outlines"), $("large-regions"));
    await showImages(item);
  } catch (error) {
    reviewTrouble(error.message);
  }
}

function describeLarge(item) {
  $("large-verdict").textContent = item.verdict;
  $("large-verdict").className = item.verdict;
  $("large-score").textContent = `score ${number(item.score)}, threshold ${number(item.threshold)}`;
  $("large-name").textContent = item.name;
  $("large-reason").hidden = !item.reason;
  $("large-reason").textContent = item.reason ?? "";
  const place = review.items.indexOf(item);
  $("before").disabled = place <= 0;
  $("after").disabled = place === review.items.length - 1 && review.next === null;
  $("save-original").disabled = !item.image;
  $("marks").hidden = !review.mayMark;
  $("may-not").hidden = review.mayMark;
  showMarks(item);
}

function showMarks(item) {
  for (const button of $("marks").children) {
    const { says } = MARKS[button.dataset.mark];
    button.disabled = !(item.verdict in says);
    button.lastChild.textContent = says[item.verdict] ?? `not after ${item.verdict}`;
    button.setAttribute("aria-pressed", String(item.mark === button.dataset.mark));
  }
}

function showHistory(entries) {
  if (review.shown) showMarks(review.shown);
  $("history-part").hidden = !entries.length;
  $("history").replaceChildren(...entries.toReversed().map(entry =>
    make("li", `${entry.mark === null ? "taken back" : MARKS[entry.mark].name} by ${entry.who}, ${new Date(entry.time).toLocaleString()}`)));
}

async function showImages(item) {
  $("no-image").hidden = item.image;
  $("no-image").textContent = item.removed ? `The image was deleted on ${new Date(item.removed).toLocaleString()}: the kept images had ` +
    "reached their limit." : "The image of this decision was not kept.";
  $("stage").hidden = !item.image;
  if (!item.image) return;
  const [shown, heat] = await Promise.all(["shown", "heatmap"].map(what => picture(item, what)));
  if (review.shown !== item) return;
  $("large-original").src = shown;
  $("large-original").alt = `${item.name}: ${item.verdict}`;
  $("large-heat").src = heat;
  await Promise.all([$("large-original").decode(), $("large-heat").decode()]).catch(() => {});
  if (review.shown !== item || $("large-original").src !== shown) return;  // another one is on its way
  $("large-original").hidden = $("large-heat").hidden = false;
}

// Where an image of a decision can be had from; kept for as long as the decision is in the grid.
function picture(item, what) {
  const key = `${item.id} ${what}`;
  if (!review.urls.has(key)) {
    const found = asked(`/decisions/${item.id}/${what}`).then(answer => answer.blob()).then(blob => URL.createObjectURL(blob));
    found.catch(() => review.urls.delete(key));
    review.urls.set(key, found);
  }
  return review.urls.get(key);
}

async function step(by) {
  const place = review.items.indexOf(review.shown) + by;
  if (place === review.items.length && review.next !== null) await more();
  if (!review.items[place]) return false;
  await showLarge(review.items[place]);
  return true;
}

async function markShown(mark) {
  const item = review.shown;
  if (!await markIt(item, mark) || review.shown !== item) return;
  if ($("go-on").checked && !await step(1)) reviewSay("This was the last of these decisions.");
}

function toggle(id) {
  $(id).click();
}

const KEYS = {
  arrowleft: () => step(-1),
  arrowright: () => step(1),
  u: undo,
  h: () => {
    $("large-opacity").value = Number($("large-opacity").value) ? 0 : 50;
    opacity();
  },
  o: () => toggle("large-show-outlines"),
  "+": () => zoom.by(1.5),
  "-": () => zoom.by(1 / 1.5),
  "0": () => zoom.fit(),
  ...Object.fromEntries(Object.entries(MARKS).map(([mark, { key }]) => [key.toLowerCase(), () => markShown(mark)])),
};

function opacity() {
  $("stage").style.setProperty("--opacity", $("large-opacity").value / 100);
}

$("large").addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const slider = event.target.type === "range" && event.key.startsWith("Arrow");
  const run = slider ? undefined : KEYS[event.key.toLowerCase()];
  if (!run) return;
  event.preventDefault();
  run();
});
$("large").addEventListener("close", () => {
  const item = review.shown;
  review.shown = null;
  item?.card?.querySelector("button").focus();
});
$("before").addEventListener("click", () => step(-1));
$("after").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => $("large").close());
$("zoom-in").addEventListener("click", () => zoom.by(1.5));
$("zoom-out").addEventListener("click", () => zoom.by(1 / 1.5));
$("zoom-fit").addEventListener("click", () => zoom.fit());
$("large-opacity").addEventListener("input", opacity);
$("large-show-outlines").addEventListener("change", event => $("large-outlines").classList.toggle("off", !event.target.checked));
$("save-original").addEventListener("click", () => saveAs(`/decisions/${review.shown.id}/original`, review.shown.name));
