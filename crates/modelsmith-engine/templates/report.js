// Hover values, zoom, and curves on and off. Without it the page shows the same curves, at rest.
(function () {
  "use strict";
  document.documentElement.classList.add("scripted");

  function read(value) {
    const size = Math.abs(value);
    if (value === 0) return "0";
    if (size < 1e-3 || size >= 1e6) return value.toExponential(3);
    const digits = Math.min(6, Math.max(0, 3 - Math.floor(Math.log10(size))));
    return value.toFixed(digits);
  }

  // Round marks of an axis: steps of 1, 2 or 5 times a power of ten.
  function marks(from, to, wanted) {
    const raw = (to - from) / wanted;
    const power = Math.pow(10, Math.floor(Math.log10(raw)));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
    const found = [];
    for (let mark = Math.ceil(from / step) * step; mark <= to + step * 1e-9; mark += step) {
      found.push(Math.abs(mark) < step * 1e-9 ? 0 : mark);
    }
    return { found, step };
  }

  function label(value, step) {
    const digits = Math.min(9, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
    return Math.abs(value) >= 1e6 || (value !== 0 && step < 1e-6) ? value.toExponential(1) : value.toFixed(digits);
  }

  // Index of the point whose step is nearest.
  function nearest(points, step) {
    let low = 0;
    let high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < step) low = middle; else high = middle;
    }
    return Math.abs(points[low][0] - step) <= Math.abs(points[high][0] - step) ? low : high;
  }

  function start(box, number) {
    const svg = box.querySelector("svg.chart");
    const frame = box.querySelector(".chart-frame");
    const data = JSON.parse(box.querySelector(".chart-data").textContent);
    const [left, top, right, bottom] = data.plot;
    const width = svg.viewBox.baseVal.width;
    const shown = data.lines.map(() => true);
    let view = data.x.slice();
    let cursor = null;
    let drag = null;

    function make(tag, attributes, parent, text) {
      const node = document.createElementNS(svg.namespaceURI, tag);
      for (const name in attributes) node.setAttribute(name, attributes[name]);
      if (text !== undefined) node.textContent = text;
      parent.appendChild(node);
      return node;
    }

    // What the page was written with becomes one group that is hidden while the view differs.
    const rest = document.createElementNS(svg.namespaceURI, "g");
    while (svg.firstChild) rest.appendChild(svg.firstChild);
    svg.appendChild(rest);
    const defs = make("defs", {}, svg);
    const clip = make("clipPath", { id: "clip-" + number }, defs);
    make("rect", { x: left, y: top - 2, width: right - left, height: bottom - top + 4 }, clip);
    const live = make("g", {}, svg);
    const over = make("g", { "pointer-events": "none" }, svg);
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    tip.setAttribute("role", "status");
    frame.appendChild(tip);
    svg.setAttribute("tabindex", "0");

    const across = (x) => left + ((x - view[0]) / (view[1] - view[0])) * (right - left);
    const back = (px) => view[0] + ((px - left) / (right - left)) * (view[1] - view[0]);
    const atRest = () => view[0] === data.x[0] && view[1] === data.x[1] && shown.every(Boolean);

    // The range of what is in view, so that a zoomed curve fills the height.
    function heights() {
      if (atRest()) return data.y;
      let low = Infinity;
      let high = -Infinity;
      data.lines.forEach((line, at) => {
        if (!shown[at]) return;
        for (const [x, y] of line.points) {
          if (x < view[0] || x > view[1]) continue;
          low = Math.min(low, y);
          high = Math.max(high, y);
        }
      });
      if (low > high) return data.y;
      const air = (high - low) * 0.06 || Math.abs(low) * 0.1 || 1;
      return [low - air, high + air];
    }

    let range = data.y;
    const down = (y) => bottom - ((y - range[0]) / (range[1] - range[0])) * (bottom - top);

    function draw() {
      range = heights();
      live.textContent = "";
      rest.style.display = atRest() ? "" : "none";
      reset.hidden = view[0] === data.x[0] && view[1] === data.x[1];
      if (!atRest()) {
        const vertical = marks(range[0], range[1], 5);
        for (const y of vertical.found) {
          make("line", { class: "grid", x1: left, x2: right, y1: down(y), y2: down(y) }, live);
          make("text", { class: "tick-y", x: left - 8, y: down(y) + 4 }, live, label(y, vertical.step));
        }
        const horizontal = marks(view[0], view[1], 6);
        for (const x of horizontal.found) {
          make("text", { class: "tick-x", x: across(x), y: bottom + 18 }, live, label(x, horizontal.step));
        }
        make("line", { class: "grid", x1: left, x2: left, y1: top, y2: bottom }, live);
        const curves = make("g", { "clip-path": "url(#clip-" + number + ")" }, live);
        data.lines.forEach((line, at) => {
          if (!shown[at]) return;
          const points = line.points.map(([x, y]) => across(x).toFixed(1) + "," + down(y).toFixed(1));
          make("polyline", { class: "live-line s" + line.color, points: points.join(" ") }, curves);
          if (line.points.length <= 15) {
            for (const [x, y] of line.points) {
              make("circle", { class: "f" + line.color, cx: across(x), cy: down(y), r: 3 }, curves);
            }
          }
        });
      }
      point();
    }

    // Crosshair and values at the step under the pointer.
    function point() {
      over.textContent = "";
      tip.hidden = cursor === null;
      if (cursor === null) return;
      let step = null;
      data.lines.forEach((line, at) => {
        if (!shown[at]) return;
        const x = line.points[nearest(line.points, cursor)][0];
        if (step === null || Math.abs(x - cursor) < Math.abs(step - cursor)) step = x;
      });
      if (step === null || step < view[0] || step > view[1]) { tip.hidden = true; return; }
      make("line", { class: "cross", x1: across(step), x2: across(step), y1: top, y2: bottom }, over);
      const rows = [];
      data.lines.forEach((line, at) => {
        if (!shown[at]) return;
        const [x, y] = line.points[nearest(line.points, step)];
        if (x !== step) return;
        make("circle", { class: "f" + line.color, cx: across(x), cy: down(y), r: 4 }, over);
        rows.push([line, y]);
      });
      tip.textContent = "";
      const head = document.createElement("div");
      head.textContent = "step " + step;
      tip.appendChild(head);
      for (const [line, y] of rows) {
        const row = document.createElement("div");
        const swatch = document.createElement("span");
        swatch.className = "swatch s" + line.color;
        row.append(swatch, " " + line.label + " " + read(y));
        tip.appendChild(row);
      }
      const share = (across(step) / width) * 100;
      tip.style.left = share > 50 ? "auto" : "calc(" + share + "% + 0.6rem)";
      tip.style.right = share > 50 ? "calc(" + (100 - share) + "% + 0.6rem)" : "auto";
    }

    function look(from, to) {
      const [low, high] = data.x;
      const least = (high - low) / 2000;
      const size = Math.min(Math.max(to - from, least), high - low);
      const begin = Math.min(Math.max(from, low), high - size);
      view = size >= high - low ? data.x.slice() : [begin, begin + size];
      draw();
    }

    function zoom(factor, about) {
      look(about - (about - view[0]) * factor, about + (view[1] - about) * factor);
    }

    // Every step at which a curve that is on has a value, as points of one number each.
    function allSteps() {
      const on = data.lines.filter((line, at) => shown[at]);
      const steps = new Set(on.flatMap((line) => line.points.map((point) => point[0])));
      return [...steps].sort((a, b) => a - b).map((step) => [step]);
    }

    function place(event) {
      const seen = svg.getBoundingClientRect();
      const px = ((event.clientX - seen.left) / seen.width) * width;
      return Math.min(Math.max(px, left), right);
    }

    svg.addEventListener("pointermove", (event) => {
      const px = place(event);
      cursor = back(px);
      point();
      if (drag !== null) {
        make("rect", { class: "band", x: Math.min(drag, px), y: top, width: Math.abs(px - drag), height: bottom - top }, over);
      }
    });
    svg.addEventListener("pointerleave", () => {
      if (drag === null) { cursor = null; point(); }
    });
    svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.pointerType === "touch") return;
      drag = place(event);
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointerup", (event) => {
      if (drag === null) return;
      const [a, b] = [back(drag), back(place(event))];
      const far = Math.abs(place(event) - drag) > 8;
      drag = null;
      if (far) look(Math.min(a, b), Math.max(a, b)); else point();
    });
    svg.addEventListener("pointercancel", () => { drag = null; point(); });
    svg.addEventListener("dblclick", () => look(data.x[0], data.x[1]));
    // A wheel that turns over a page scrolls it; over a selected chart it zooms.
    svg.addEventListener("wheel", (event) => {
      if (document.activeElement !== svg && !event.ctrlKey) return;
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.25 : 0.8, back(place(event)));
    }, { passive: false });
    svg.addEventListener("keydown", (event) => {
      const middle = cursor === null ? (view[0] + view[1]) / 2 : cursor;
      const move = (by) => {
        const steps = allSteps();
        if (steps.length === 0) return;
        const at = nearest(steps, middle) + (cursor === null ? 0 : by);
        const next = steps[Math.min(Math.max(at, 0), steps.length - 1)][0];
        cursor = next;
        if (next < view[0] || next > view[1]) {
          const size = view[1] - view[0];
          look(next - size / 2, next + size / 2);
        } else point();
      };
      if (event.key === "ArrowRight") move(1);
      else if (event.key === "ArrowLeft") move(-1);
      else if (event.key === "+" || event.key === "=") zoom(0.7, middle);
      else if (event.key === "-") zoom(1.4, middle);
      else if (event.key === "0") look(data.x[0], data.x[1]);
      else if (event.key === "Escape") { cursor = null; point(); }
      else return;
      event.preventDefault();
    });
    svg.addEventListener("blur", () => { cursor = null; point(); });

    const legend = box.querySelector(".legend");
    for (const item of legend.querySelectorAll("li")) {
      const at = Number(item.dataset.line);
      const button = document.createElement("button");
      button.type = "button";
      button.append(...item.childNodes);
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        shown[at] = !shown[at];
        button.setAttribute("aria-pressed", String(shown[at]));
        draw();
      });
      item.appendChild(button);
    }
    const item = document.createElement("li");
    const reset = document.createElement("button");
    reset.type = "button";
    reset.className = "reset";
    reset.textContent = "Show all";
    reset.hidden = true;
    reset.addEventListener("click", () => look(data.x[0], data.x[1]));
    item.appendChild(reset);
    legend.appendChild(item);
  }

  document.querySelectorAll(".chart-box").forEach(start);
})();
