"use strict";
// Tables: a click on a column's head sorts by it, another one turns the order.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = (cell.firstChild ? cell.firstChild.textContent : "").replace(/−/g, "-").replace(/[\s\u2009]/g, " ").trim();
    const found = text.match(/-?\d+(\.\d+)?(e-?\d+)?/i);
    return { text, number: found ? parseFloat(found[0]) : NaN };
  };
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const order = (a, b) => {
        const [p, q] = [value(a, column), value(b, column)];
        // The first column holds names; what has no number comes last in either order.
        const texts = column === 0 || (isNaN(p.number) && isNaN(q.number));
        if (texts) return (down ? -1 : 1) * p.text.localeCompare(q.text);
        if (isNaN(p.number) || isNaN(q.number)) return isNaN(p.number) ? 1 : -1;
        return (down ? -1 : 1) * (p.number - q.number);
      };
      body.append(...[...body.rows].sort(order));
    };
    head.tabIndex = 0;
    head.title = "Sort by this column";
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (e) => {
      if (e.key === "Enter" || e.key === " ") { e.preventDefault(); sort(); }
    });
  });
}

// Filters: a button shows only the rows whose data-kind it names.
for (const bar of document.querySelectorAll(".filters[data-for]")) {
  const rows = document.querySelectorAll(bar.dataset.for + " [data-kind]");
  const buttons = bar.querySelectorAll("button");
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const again = button.getAttribute("aria-pressed") === "true";
      for (const other of buttons) other.setAttribute("aria-pressed", "false");
      const kind = again ? "" : button.dataset.kind;
      (again ? buttons[0] : button).setAttribute("aria-pressed", "true");
      for (const row of rows) row.hidden = kind !== "" && row.dataset.kind !== kind;
    });
  }
  bar.hidden = false;
}

// A link into something folded unfolds it.
const unfold = () => {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  if (target) target.scrollIntoView();
};
addEventListener("hashchange", unfold);
unfold();

// Plots: numbers under the pointer; a rectangle drawn with it is looked at more closely.
(() => {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const number = (v) => {
    const size = Math.abs(v);
    const text = size !== 0 && (size < 1e-3 || size >= 1e6) ? v.toExponential(3) : String(+v.toPrecision(5));
    return text.replace("-", "−");
  };
  const ticks = ([log, low, high]) => {
    const rough = (high - low) / 5;
    if (log && high - low > 1.5) {
      const step = Math.max(1, Math.round(rough)), all = [];
      for (let e = Math.ceil(low); e <= high; e += step) all.push(10 ** e);
      return all;
    }
    const [a, b] = log ? [10 ** low, 10 ** high] : [low, high];
    const width = (b - a) / 5, power = 10 ** Math.floor(Math.log10(width));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= width), all = [];
    for (let i = Math.ceil(a / step); i * step <= b + step * 1e-9; i++) all.push(+(i * step).toPrecision(12));
    return all;
  };

  const first = document.querySelector("figure .plot");
  if (first) {
    const hint = document.createElement("p");
    hint.className = "note";
    hint.textContent = "Point at a figure for its numbers; draw a rectangle in it to look closer, and click twice to go back.";
    first.closest("figure").before(hint);
  }
  for (const box of document.querySelectorAll(".plot")) {
    const svg = box.querySelector("svg");
    const plots = JSON.parse(box.querySelector("script").textContent);
    const scale = svg.viewBox.baseVal.width / parseFloat(svg.getAttribute("width"));
    const make = (tag, attributes, parent) => {
      const node = document.createElementNS(svg.namespaceURI, tag);
      for (const key in attributes) node.setAttribute(key, attributes[key]);
      parent.append(node);
      return node;
    };
    const layer = make("g", { transform: `scale(${scale})` }, svg);
    const dot = make("circle", { r: 5.5, fill: "none", stroke: "#222222", "stroke-width": 1.6, visibility: "hidden" }, layer);
    const frame = make("rect", { fill: "#1B4F9C", "fill-opacity": 0.12, stroke: "#1B4F9C", visibility: "hidden" }, layer);
    const at = (event) => {
      const p = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      return [p.x / scale, p.y / scale];
    };
    plots.forEach((plot, index) => {
      const [left, top, right, bottom] = plot.area;
      plot.home = [plot.x, plot.y];
      plot.inside = ([x, y]) => x >= left - 8 && x <= right + 8 && y >= top - 8 && y <= bottom + 8;
      const unit = (axis, v) => ((axis[0] ? Math.log10(v) : v) - axis[1]) / (axis[2] - axis[1]);
      plot.place = (p) => [left + unit(plot.x, p[0]) * (right - left), bottom - unit(plot.y, p[1]) * (bottom - top)];
      plot.back = (p) => [
        plot.x[1] + ((p[0] - left) / (right - left)) * (plot.x[2] - plot.x[1]),
        plot.y[1] + ((bottom - p[1]) / (bottom - top)) * (plot.y[2] - plot.y[1]),
      ];
      plot.nearest = (p) => {
        let best = null, reach = 26;
        for (const series of plot.series) {
          series.points.forEach((point, i) => {
            const [x, y] = plot.place(point), distance = Math.hypot(x - p[0], y - p[1]);
            if (distance < reach && plot.inside([x, y])) { best = { series, i, point, at: [x, y] }; reach = distance; }
          });
        }
        return best;
      };
      plot.draw = () => {
        if (plot.group) plot.group.remove();
        plot.group = null;
        if (plot.x === plot.home[0] && plot.y === plot.home[1]) return;
        const g = plot.group = make("g", {}, layer);
        layer.append(frame, dot);
        const [a, b, c, d] = plot.cover;
        make("rect", { x: a, y: b, width: c - a, height: d - b, fill: "#FFFFFF" }, g);
        const clip = `${box.className.includes("wide") ? "w" : "n"}${[...document.querySelectorAll(".plot")].indexOf(box)}-${index}`;
        make("rect", { x: left, y: top, width: right - left, height: bottom - top }, make("clipPath", { id: clip }, g));
        const text = (x, y, anchor, value) => {
          const node = make("text", { x, y, "text-anchor": anchor, "font-size": 11, fill: "#222222" }, g);
          node.textContent = number(value);
        };
        for (const v of ticks(plot.x)) {
          const [x] = plot.place([v, plot.y[0] ? 1 : 0]);
          if (x < left - 1 || x > right + 1) continue;
          make("line", { x1: x, x2: x, y1: top, y2: bottom, stroke: "#DDDDDD" }, g);
          text(x, bottom + 15, "middle", v);
        }
        for (const v of ticks(plot.y)) {
          const [, y] = plot.place([plot.x[0] ? 1 : 0, v]);
          if (y < top - 1 || y > bottom + 1) continue;
          make("line", { x1: left, x2: right, y1: y, y2: y, stroke: "#DDDDDD" }, g);
          text(left - 6, y + 4, "end", v);
        }
        make("path", { d: `M${left} ${top}V${bottom}H${right}`, fill: "none", stroke: "#555555" }, g);
        const inner = make("g", { "clip-path": `url(#${clip})` }, g);
        const path = (points) => points.map((p) => plot.place(p).map((v) => v.toFixed(2))).filter((p) => p.every((v) => isFinite(v))).join(" ");
        for (const s of plot.series) {
          const ends = s.band || [];
          if (s.line && s.band) {
            const ring = [...s.points.map((p, i) => [p[0], ends[i][1]]), ...s.points.map((p, i) => [p[0], ends[i][0]]).reverse()];
            make("polygon", { points: path(ring.filter((p) => p[1] !== null)), fill: s.color, "fill-opacity": 0.18 }, inner);
          }
          if (s.line) {
            make("polyline", { points: path(s.points), fill: "none", stroke: s.color, "stroke-width": 2, "stroke-dasharray": s.dash.join(" ") }, inner);
          }
          s.points.forEach((p, i) => {
            const [x, y] = plot.place(p);
            if (!isFinite(x) || !isFinite(y)) return;
            if (!s.line && ends[i] && ends[i][0] !== null && ends[i][1] !== null) {
              const [, low] = plot.place([p[0], ends[i][0]]), [, high] = plot.place([p[0], ends[i][1]]);
              if (isFinite(low) && isFinite(high)) make("line", { x1: x, x2: x, y1: low, y2: high, stroke: s.color, "stroke-width": 1.4 }, inner);
            }
            if (!s.line || s.points.length < 60) make("circle", { cx: x, cy: y, r: s.line ? 2.4 : 4, fill: s.color }, inner);
          });
        }
      };
    });
    const reset = document.createElement("button");
    reset.textContent = "whole range";
    reset.className = "reset";
    reset.hidden = true;
    box.append(reset);
    const home = () => {
      for (const plot of plots) { [plot.x, plot.y] = plot.home; plot.draw(); }
      reset.hidden = true;
      dot.setAttribute("visibility", "hidden");
    };
    reset.addEventListener("click", home);
    svg.addEventListener("dblclick", home);
    let start = null;
    const under = (p) => plots.find((plot) => plot.inside(p));
    svg.addEventListener("pointerdown", (e) => {
      const p = at(e), plot = under(p);
      // A finger scrolls the page.
      if (plot && e.pointerType === "mouse" && e.button === 0) { start = { p, plot }; svg.setPointerCapture(e.pointerId); e.preventDefault(); }
    });
    svg.addEventListener("pointermove", (e) => {
      const p = at(e);
      if (start) {
        const [x, y] = [0, 1].map((k) => Math.min(p[k], start.p[k])), [w, h] = [0, 1].map((k) => Math.abs(p[k] - start.p[k]));
        for (const [key, value] of Object.entries({ x, y, width: w, height: h, visibility: "visible" })) frame.setAttribute(key, value);
      }
      const plot = start ? null : under(p), found = plot && plot.nearest(p);
      tip.hidden = !found;
      dot.setAttribute("visibility", found ? "visible" : "hidden");
      if (!found) return;
      dot.setAttribute("cx", found.at[0]);
      dot.setAttribute("cy", found.at[1]);
      const ends = found.series.band && found.series.band[found.i];
      const interval = ends && ends[0] !== null && ends[1] !== null ? ` [${number(ends[0])}, ${number(ends[1])}]` : "";
      const lines = [found.series.name, `${plot.names[0] || "x"}: ${number(found.point[0])}`, `${plot.names[1] || "y"}: ${number(found.point[1])}${interval}`];
      tip.replaceChildren(...lines.filter((t) => t).map((t, i) => {
        const node = document.createElement(i === 0 && found.series.name ? "b" : "div");
        node.textContent = t;
        return node;
      }));
      tip.style.left = Math.min(e.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
      tip.style.top = Math.min(e.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
    });
    svg.addEventListener("pointerup", (e) => {
      if (!start) return;
      const { p, plot } = start, q = at(e);
      start = null;
      frame.setAttribute("visibility", "hidden");
      if (Math.abs(p[0] - q[0]) < 6 || Math.abs(p[1] - q[1]) < 6) return;
      const [a, b] = [plot.back(p), plot.back(q)];
      plot.x = [plot.x[0], Math.min(a[0], b[0]), Math.max(a[0], b[0])];
      plot.y = [plot.y[0], Math.min(a[1], b[1]), Math.max(a[1], b[1])];
      plot.draw();
      reset.hidden = false;
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; dot.setAttribute("visibility", "hidden"); });
  }
})();
