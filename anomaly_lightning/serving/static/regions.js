"use strict";
// The outlines of a decision's regions in a drawing (an svg element), and a table of them.
function showRegions(said, drawing, table) {
  const rows = table.tBodies[0];
  drawing.setAttribute("viewBox", `0 0 ${said.width} ${said.height}`);
  drawing.replaceChildren();
  rows.replaceChildren();
  const some = said.region_count > said.regions.length ? `, the first ${said.regions.length} listed` : "";
  table.caption.textContent = said.region_count ? `Regions above the pixel threshold: ${said.region_count}${some}`
    : "No region above the pixel threshold";
  table.tHead.hidden = !said.region_count;
  said.regions.forEach((region, index) => {
    const d = `M${region.contour.map(point => point.join(" ")).join("L")}Z`;
    const lines = ["edge", "line"].map(kind => {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("class", kind);
      path.setAttribute("d", d);
      return path;
    });
    drawing.append(...lines);
    rows.append(regionRow(region, index, lines[1]));
  });
}

function regionRow(region, index, line) {
  const [left, top, width, height] = region.box, row = make("tr"), first = make("td"), button = make("button", index + 1);
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-label", `Highlight region ${index + 1}`);
  button.addEventListener("click", () => {
    const on = line.classList.toggle("chosen");
    button.setAttribute("aria-pressed", String(on));
  });
  first.append(button);
  row.append(first, ...[`${left}, ${top}`, `${width} × ${height}`, region.area, number(region.peak)]
    .map(text => make("td", text, "number")));
  return row;
}
