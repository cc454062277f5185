"use strict";
// Tables: a click on a head sorts by its column, a second one the other way round.
const MISSING = /^[\s–—-]*$/;

// What a cell sorts by: its leading number, or infinity; null where there is none.
function leading(text) {
  const match = /^\s*([+\-−]?)\s*(∞|inf\b|\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)/i.exec(text);
  if (!match) return null;
  const size = /^(∞|inf)/i.test(match[2]) ? Infinity : parseFloat(match[2]);
  return match[1] === "-" || match[1] === "−" ? -size : size;
}

function compare(a, b) {
  const [x, y] = [leading(a), leading(b)];
  if (x !== null && y !== null) return x < y ? -1 : Number(x > y);
  if (x === null && y === null) return a.localeCompare(b);
  return x === null ? 1 : -1;
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const text = (row) => row.cells[head.cellIndex].textContent;
    const order = (a, b) => MISSING.test(text(a)) - MISSING.test(text(b))
      || (down ? -1 : 1) * compare(text(a), text(b));
    body.append(...[...body.rows].sort(order));
  });
}

// Figures: values under the pointer, under a finger, and by the arrow keys.
const figures = JSON.parse(document.getElementById("values").textContent);
const tip = document.getElementById("tip");
const show = (value) => value === null ? "no value" : String(Number(value.toPrecision(4)));

function share(axis, value) {
  const drawn = axis.log ? Math.log10 : Number;
  if (value === null || (axis.log && value <= 0)) return NaN;
  return (drawn(value) - drawn(axis.low)) / (drawn(axis.high) - drawn(axis.low));
}

// Places of a panel where values are shown: where they are, and lines of [colour, text].
function places({ x, y, area: [left, top, width, height], content }) {
  const across = (value) => left + width * share(x, value);
  const down = (value) => top + height * (1 - share(y, value));
  if (content.kind === "cells") {
    return content.columns.flatMap((column, i) => content.rows.map((row, j) => ({
      x: across(column), y: down(j + 1),
      lines: () => [[null, `${x.name} ${show(column)}, ${y.name} ${j + 1}`], [null, `${content.value}: ${show(row[i])}`]],
    })));
  }
  if (content.kind === "points") {
    const all = content.series.flatMap((group) => group.points.map(([a, b], i) => ({
      x: across(a), y: down(b),
      lines: () => [[group.colour, group.name], [null, group.labels[i]], [null, `${x.name}: ${show(a)}`], [null, `${y.name}: ${show(b)}`]],
    })));
    return all.filter((place) => isFinite(place.x) && isFinite(place.y)).sort((a, b) => a.x - b.x || a.y - b.y);
  }
  const steps = new Set(content.series.flatMap((curve) => curve.points.map((point) => point[0])));
  return [...steps].filter((step) => isFinite(across(step)) && step !== null).sort((a, b) => a - b).map((step) => ({
    x: across(step),
    lines: () => {
      const near = (curve) => curve.points.reduce((best, point) =>
        point[0] !== null && Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best, [Infinity]);
      const line = (curve) => {
        const [at, mean, low, high] = near(curve);
        const elsewhere = at === step ? "" : ` (at ${show(at)})`;
        const band = mean === null || (low === mean && high === mean) ? "" : ` [${show(low)}, ${show(high)}]`;
        return [curve.colour, `${curve.name}: ${show(mean)}${band}${elsewhere}`];
      };
      return [[null, `${x.name} ${show(step)}`], ...content.series.filter((curve) => curve.points.length).map(line)];
    },
  }));
}

for (const svg of document.querySelectorAll("svg.panel")) {
  const panel = figures[svg.dataset.figure].panels[svg.dataset.panel];
  const [left, top, width, height] = panel.area;
  const all = places(panel);
  const rows = panel.content.kind === "cells" ? panel.content.rows.length : 1;
  let at = -1;
  const far = (place, x, y) => panel.content.kind === "points"
    ? [Math.hypot(place.x - x, place.y - y), 0] : [Math.abs(place.x - x), place.y === undefined ? 0 : Math.abs(place.y - y)];
  const nearest = (x, y) => all.reduce((best, place, i) => {
    const [a, b] = far(place, x, y);
    return best[1] > a || (best[1] === a && best[2] > b) ? [i, a, b] : best;
  }, [-1, Infinity, Infinity])[0];

  const hide = () => { tip.hidden = true; svg.querySelector(".pointer").setAttribute("d", ""); };
  const put = (index) => {
    if (!all[index]) return;
    at = index;
    const place = all[at];
    tip.replaceChildren(...place.lines().filter(([, text]) => text).map(([colour, text]) => {
      const line = document.createElement("div");
      if (colour) line.append(Object.assign(document.createElement("i"), { style: `background:${colour}` }));
      line.append(text);
      return line;
    }));
    const bar = place.y === undefined ? "" : `M${left} ${place.y}h${width}`;
    svg.querySelector(".pointer").setAttribute("d", `M${place.x} ${top}v${height}${bar}`);
    tip.hidden = false;
    const on = new DOMPoint(place.x, place.y ?? top + height / 4).matrixTransform(svg.getScreenCTM());
    const fits = on.x + 14 + tip.offsetWidth < document.documentElement.clientWidth;
    tip.style.left = `${Math.max(4, fits ? on.x + 14 : on.x - 14 - tip.offsetWidth)}px`;
    tip.style.top = `${Math.max(4, Math.min(on.y + 14, innerHeight - tip.offsetHeight - 4))}px`;
  };
  const follow = (event) => {
    const on = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    if (on.x < left - 8 || on.x > left + width + 8 || on.y < top - 8 || on.y > top + height + 8) hide();
    else put(nearest(on.x, on.y));
  };
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) put(at < 0 ? nearest(left + width / 2, top + height / 2) : at); });
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: rows, ArrowLeft: -rows, ArrowDown: rows > 1 ? 1 : 0, ArrowUp: rows > 1 ? -1 : 0 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    put(Math.max(0, Math.min(all.length - 1, at + step)));
  });
}
