"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th[data-sort]").forEach((th) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...th.childNodes);
    th.append(button);
    button.addEventListener("click", () => {
      const falling = th.getAttribute("aria-sort") !== "descending" && th.dataset.sort === "number"
        || th.getAttribute("aria-sort") === "ascending";
      for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const column = th.cellIndex;
      const rows = [...body.rows].map((row) => [row, row.cells[column].dataset.v ?? row.cells[column].textContent.trim()]);
      const number = th.dataset.sort === "number";
      rows.sort(([, a], [, b]) => {
        if (number && (a === "" || b === "")) return (a === "") - (b === "");
        const order = number ? a - b : a.localeCompare(b, undefined, {numeric: true});
        return falling ? -order : order;
      });
      body.append(...rows.map(([row]) => row));
    });
  });
}
for (const controls of document.querySelectorAll(".controls")) {
  const table = document.getElementById(controls.dataset.for);
  const [text, only, said] = ["input", "select", "output"].map((name) => controls.querySelector(name));
  const rows = [...table.tBodies[0].rows];
  const names = rows.map((row) => row.dataset.find.toLowerCase());
  const show = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let n = 0;
    rows.forEach((row, i) => {
      const wanted = words.every((word) => names[i].includes(word))
        && (!only.value || (only.value === "any" ? row.dataset.codes !== "" : row.dataset.codes.split(" ").includes(only.value)));
      row.hidden = !wanted;
      n += wanted;
    });
    said.textContent = `${n} of ${rows.length} slides`;
  };
  text.addEventListener("input", show);
  only.addEventListener("change", show);
  controls.hidden = false;
  show();
}
