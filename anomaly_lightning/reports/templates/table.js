// A click on the head of a column sorts the table by it, a second one the other way round. Rows without a value in that
// column stay at the end.

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const order = new Map([...body.rows].map((row, place) => [row, place]));
  const heads = [...table.tHead.rows[0].cells];

  const valueIn = (row, column) => {
    let end = 0;
    for (const cell of row.cells) {
      end += cell.colSpan;
      if (column < end) return cell.colSpan > 1 ? "" : cell.dataset.value ?? cell.textContent.trim();
    }
    return "";
  };

  const sortBy = (column, head) => {
    const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      const [x, y] = [valueIn(a, column), valueIn(b, column)];
      const missing = (x === "") - (y === "");
      const difference = isNaN(x) || isNaN(y) ? x.localeCompare(y, "en", { numeric: true }) : x - y;
      return missing || (x !== "" && sign * difference) || order.get(a) - order.get(b);
    };
    body.append(...[...body.rows].sort(compare));
    document.getElementById("sorted").textContent = `Sorted by ${head.textContent}, ${direction}.`;
  };

  heads.forEach((head, column) => {
    if (head.classList.contains("fixed")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(column, head));
    head.append(button);
    head.setAttribute("aria-sort", "none");
  });
}
