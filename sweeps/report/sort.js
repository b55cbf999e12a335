// A click on a column's name sorts its table; a second click turns the order around.
document.querySelectorAll("th").forEach((head) => head.addEventListener("click", () => {
  const place = [...head.parentNode.children].indexOf(head);
  const down = head.dataset.order === "up";
  head.parentNode.querySelectorAll("th").forEach((other) => delete other.dataset.order);
  head.dataset.order = down ? "down" : "up";
  const body = head.closest("table").tBodies[0];
  const value = (row) => {
    const field = row.children[place];
    return "sort" in field.dataset ? Number(field.dataset.sort) : field.textContent;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  [...body.rows]
    .sort((a, b) => (down ? -1 : 1) * compare(value(a), value(b)))
    .forEach((row) => body.append(row));
}));
