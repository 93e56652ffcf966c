"use strict";
// The grid of decisions: page by page, images as they come into view.

const SHORT = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" };
const PAGE = 60, MOST_BY_ITSELF = 600, REFRESH_MS = 15_000;

async function page(asking) {
  asking.set("limit", PAGE);
  return (await asked(`/decisions?${asking}`)).json();
}

async function reload() {
  const mine = ++review.loading;  // an answer to what was asked before is of no use
  try {
    if (!await loadSummary()) return;
    await modelsKnown();
    listModels();
    const found = await page(query());
    if (mine !== review.loading) return;
    for (const url of review.urls.values()) url.then(URL.revokeObjectURL, () => {});
    review.urls.clear();
    $("grid").replaceChildren();
    Object.assign(review, { items: [], newer: 0 });
    $("newer").hidden = true;
    append(found);
    reviewTrouble("");
  } catch (error) {
    reviewTrouble(error.message);
  }
}

let growing = null;
function more() {
  growing ??= grow().finally(() => { growing = null; });
  return growing;
}

async function grow() {
  if (review.next === null) return;
  const mine = review.loading, asking = query();
  asking.set("after", review.next);
  try {
    const found = await page(asking);
    if (mine === review.loading) append(found);
  } catch (error) {
    reviewTrouble(error.message);
  }
}

function append(found) {
  review.next = found.next;
  const known = new Set(review.items.map(item => item.id));
  const fresh = found.decisions.filter(item => !known.has(item.id));  // a mark moves what is filtered by marks
  review.items.push(...fresh);
  $("grid").append(...fresh.map(card));
  $("nothing").hidden = review.items.length > 0;
  $("more").hidden = found.next === null;
  atEnd.unobserve($("more"));  // it tells anew whether the end is in view
  atEnd.observe($("more"));
}

function card(item) {
  item.card = make("li");
  const button = make("button"), image = make("span", undefined, "thumb");
  button.type = "button";
  const name = make("span", item.name.split("/").at(-1), "name");
  button.title = name.title = item.name;
  button.append(image, make("b", item.verdict, item.verdict), make("span", number(item.score), "score"),
    name, make("time", new Date(item.time).toLocaleString(undefined, SHORT)), make("span", undefined, "badge"));
  button.addEventListener("click", () => showLarge(item));
  item.card.append(button);
  item.card.item = item;
  if (item.image) inView.observe(item.card);
  else image.textContent = item.removed ? "image deleted" : "image not kept";
  refreshCard(item);
  return item.card;
}

function refreshCard(item) {
  const badge = item.card?.querySelector(".badge");
  if (!badge) return;
  badge.textContent = item.mark === null ? "" : markName(item.mark);
  badge.dataset.mark = item.mark ?? "";
  item.card.firstChild.setAttribute("aria-label",
    `${item.verdict}, score ${number(item.score)}, ${markName(item.mark)}, ${item.name}, ${new Date(item.time).toLocaleString()}`);
}

const inView = new IntersectionObserver(entries => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    inView.unobserve(target);
    const place = target.querySelector(".thumb");
    picture(target.item, "small").then(url => {
      const image = make("img");
      Object.assign(image, { src: url, alt: "" });
      place.replaceChildren(image);
    }, () => { place.textContent = "image gone"; });
  }
}, { rootMargin: "300px" });

const atEnd = new IntersectionObserver(entries => {
  if (entries.some(entry => entry.isIntersecting) && review.items.length < MOST_BY_ITSELF) more();
}, { rootMargin: "600px" });

// Marks that others set on what is shown, and how many decisions there are by now.
async function refresh() {
  if ($("review-tab").hidden || document.hidden || !review.items.length) return;
  try {
    if (!await loadSummary()) return;
    const asking = query();
    asking.delete("mark");
    const now = new Map((await page(asking)).decisions.map(item => [item.id, item]));
    for (const item of review.items) {
      const known = now.get(item.id);
      if (known && item !== review.shown) learn(item, known);  // who looks at it is told when marking
    }
  } catch (error) {
    reviewTrouble(error.message);
  }
}

// Keys on a card: the arrows go to its neighbours, the marks mark it.
$("grid").addEventListener("keydown", async event => {
  const item = event.target.closest("li")?.item;
  if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
  const place = review.items.indexOf(item), [first] = review.items;
  const wide = review.items.filter(one => one.card.offsetTop === first.card.offsetTop).length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -wide, ArrowDown: wide }[event.key];
  const mark = Object.keys(MARKS).find(one => MARKS[one].key === event.key.toUpperCase());
  if (!by && !mark && event.key.toUpperCase() !== "U") return;
  event.preventDefault();
  if (by) review.items[place + by]?.card.firstChild.focus();
  else if (!mark) undo();
  else if (await markIt(item, mark)) review.items[place + 1]?.card.firstChild.focus();
});

$("more").addEventListener("click", more);
$("newer").addEventListener("click", reload);
addEventListener("tab", event => { if (event.detail === "review" && !review.items.length) reload(); });
addEventListener("decided", event => {
  if (review.items.length) review.newer += event.detail;
  else if (!$("review-tab").hidden) reload();
  $("newer").hidden = !review.newer;
  $("newer").textContent = `${review.newer} new ${review.newer === 1 ? "decision" : "decisions"}: show`;
});
setInterval(refresh, REFRESH_MS);
