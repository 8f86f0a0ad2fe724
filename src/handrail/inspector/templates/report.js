"use strict";
// Reads out the nearest step under the pointer, and unfolds everything for printing.  The page is whole without it.
(() => {
  const make = (name, parent, attributes) => {
    const made = document.createElementNS(parent.namespaceURI, name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    return parent.appendChild(made);
  };
  const nearest = (points, x) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle].px < x) low = middle; else high = middle;
    }
    return Math.abs(points[low].px - x) < Math.abs(points[high].px - x) ? points[low] : points[high];
  };
  for (const svg of document.querySelectorAll("svg[data-chart]")) {
    const series = svg.dataset.chart.split("\n").map(row => {
      const cut = row.indexOf("|");
      const points = row.slice(cut + 1).split(";").filter(Boolean).map(cell => {
        const [step, value, px, py] = cell.split(":");
        return { step, value, px: +px, py: +py };
      });
      return { label: row.slice(0, cut), points };
    }).filter(one => one.points.length);
    if (!series.length) continue;
    let shown = null;
    const clear = () => { if (shown) shown.remove(); shown = null; };
    svg.addEventListener("pointerleave", clear);
    svg.addEventListener("pointermove", event => {
      const box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
      const x = (event.clientX - box.left) * view.width / box.width;
      clear();
      shown = make("g", svg, {});
      const found = series.map(one => nearest(one.points, x)), at = found[0];
      make("line", shown, { x1: at.px, x2: at.px, y1: 22, y2: view.height - 32, class: "cross" });
      for (const point of found) make("circle", shown, { cx: point.px, cy: point.py, r: 3, class: "cross" });
      const right = at.px > view.width / 2;
      const text = make("text", shown, { x: at.px + (right ? -6 : 6), y: 34, class: "read halo", "text-anchor": right ? "end" : "start" });
      text.textContent = "step " + at.step + ": " + found.map(point => point.value).join(" · ");
    });
  }
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details:not([open])")) {
      folded.open = true;
      folded.dataset.folded = "";
    }
  });
  addEventListener("afterprint", () => {
    for (const folded of document.querySelectorAll("details[data-folded]")) folded.open = false;
  });
})();
