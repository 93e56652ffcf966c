"use strict";
// Sorts the table of runs by the column whose head was clicked; runs without that figure stay at the end.
const body = document.querySelector("#table tbody");
const order = new Map([...body.rows].map((row, index) => [row, index]));

function compare(key, numeric, sign) {
  return (a, b) => {
    const [x, y] = [a.dataset[key] ?? "", b.dataset[key] ?? ""];
    if (x === "" || y === "") return (x === "") - (y === "") || order.get(a) - order.get(b);
    const difference = numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
    return sign * difference || order.get(a) - order.get(b);
  };
}

function sortBy(button) {
  const head = button.closest("th");
  const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of head.parentElement.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  body.append(...[...body.rows].sort(compare(button.dataset.key, "numeric" in button.dataset, sign)));
  document.getElementById("said").textContent = `Sorted by ${button.textContent}, ${direction}.`;
}

for (const button of document.querySelectorAll("#table thead button")) {
  button.addEventListener("click", () => sortBy(button));
}

// Without script all figures' tables stand below each other; with it, one is chosen.
const chooser = document.getElementById("compared");
if (chooser) {
  const choose = () => {
    for (const table of document.querySelectorAll(".compared")) table.hidden = table.id !== `compared-${chooser.value}`;
  };
  chooser.closest("p").hidden = false;
  chooser.addEventListener("change", choose);
  choose();
}
