"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, index) => row.cells[index].textContent.trim();
  const number = (text) => parseFloat(text.replace("−", "-"));
  heads.forEach((head, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a, index), value(b, index)];
        const [m, n] = [number(x), number(y)];
        // What is no number comes last, in either direction.
        if (isNaN(m) !== isNaN(n)) return isNaN(m) ? 1 : -1;
        const order = isNaN(m) ? x.localeCompare(y, "en", { numeric: true }) : m - n;
        return down ? -order : order;
      });
      body.append(...rows);
    });
  });
}
