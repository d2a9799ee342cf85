// Sorts tables and scrubs through episodes. Whatever comes from the page's data is set as text or
// as an address of a picture, never as markup. embodied/evaluate/scrubber.py says what the data is.
"use strict";

(() => {
  const make = (name, properties = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (key in node) node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  };

  // ---- tables ----

  const keyOf = (row, column) => {
    const cell = row.cells[column];
    const value = cell.dataset.value;
    if (value === undefined) return cell.textContent;
    return value === "" ? null : Number(value);
  };

  const sortBy = (table, column) => {
    const head = table.tHead.rows[0].cells[column];
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [keyOf(a, column), keyOf(b, column)];
      if (x === null || y === null) return (x === null) - (y === null); // unknown ones last
      const order = typeof x === "number" ? x - y : x.localeCompare(y);
      return down ? -order : order;
    });
    body.append(...rows);
  };

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = make("button", { type: "button", textContent: head.textContent });
      button.addEventListener("click", () => sortBy(table, column));
      head.replaceChildren(button);
    });
  }

  // ---- episodes ----

  const block = document.getElementById("data");
  const inspector = document.getElementById("inspector");
  if (!block || !inspector) return;
  const { images, episodes } = JSON.parse(block.textContent);
  const part = (name) => inspector.querySelector(`[data-part=${name}]`);
  const SVG = "http://www.w3.org/2000/svg";
  const MOST_PICTURES = 3;
  const seconds = (value) => `${value.toFixed(1)} s`;
  const share = (value) => `${(100 * value).toFixed(0)} %`;
  let episode = null;
  let playing = null;

  const curve = (values) => {
    const drawn = document.createElementNS(SVG, "svg");
    drawn.setAttribute("viewBox", "0 -1.1 1 2.2");
    drawn.setAttribute("preserveAspectRatio", "none");
    drawn.setAttribute("aria-hidden", "true");
    const line = (points, kind) => {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", `M${points.join("L")}`);
      if (kind) path.setAttribute("class", kind);
      drawn.append(path);
    };
    line(["0 0", "1 0"], "zero");
    const bound = (value) => Math.max(-1, Math.min(1, value));
    line(values.map((value, i) => `${i / (values.length - 1)} ${-bound(value)}`));
    return drawn;
  };

  const actionsOf = (side, tick) => {
    const chunk = side.actions[tick];
    if (!chunk) return make("p", { className: "note", textContent: "No action is asked for here." });
    const entries = side.names.map((name, i) => {
      const values = chunk.map((action) => action[i]);
      const entry = make("li", {}, `${name} ${values[0].toFixed(2)}`);
      if (values.length > 1) entry.append(curve(values));
      return entry;
    });
    return make("ul", { className: "actions" }, ...entries);
  };

  const slotOf = (side, [slot, count, age, weight, ticks], tick, most) => {
    const shown = ticks.slice(0, MOST_PICTURES).map((t) =>
      make("img", { src: images[side.frames[t]], alt: `seen at ${seconds(side.times[t])}` }));
    const lines = [];
    const line = (text) => lines.push(make("div", { textContent: text }));
    if (!ticks.length) line("of another episode");
    if (age !== null) line(`at ${seconds(side.times[tick] - age)}, ${seconds(age)} ago`);
    line(count > 1 ? `${count.toFixed(0)} merged` : "not merged");
    line(`read ${share(weight)}`);
    const name = `slot ${slot}`;
    return make("li", { className: most ? "most" : "" },
      make("strong", { textContent: name }),
      make("div", { className: "seen" }, ...shown), ...lines,
      make("meter", { max: 1, value: weight, "aria-label": `share of ${name} in what is read` }));
  };

  const memoryOf = (side, tick) => {
    const stream = side.streams.find((one) => one.name === part("stream").value);
    if (!stream) return [make("p", { className: "note", textContent: "No slots to show." })];
    const nodes = [];
    if (stream.gate) {
      const memory = 1 - stream.gate[tick];
      nodes.push(make("label", {}, `gate: ${share(memory)} of what goes on to act is from memory`,
        make("meter", { max: 1, value: memory })));
    }
    const slots = stream.slots[tick];
    if (!slots.length) nodes.push(make("p", { className: "note", textContent: "Memory is empty." }));
    const top = Math.max(...slots.map((slot) => slot[3]));
    nodes.push(make("ol", { className: "slots" },
      ...slots.map((slot) => slotOf(side, slot, tick, slot[3] > 0 && slot[3] === top))));
    return nodes;
  };

  const sideOf = (side, wanted) => {
    const tick = Math.min(wanted, side.times.length - 1);
    const time = seconds(side.times[tick]);
    const over = wanted > tick ? ", and it was over" : "";
    return make("section", { className: "side" },
      make("h3", { textContent: side.title }),
      make("p", { className: side.good ? "good" : "bad", textContent: side.outcome }),
      make("img", { src: images[side.frames[tick]], alt: `the scene at ${time}` }),
      make("p", {},
        make("span", { className: `badge ${side.phases[tick]}`, textContent: side.phases[tick] }),
        ` ${time}${over} · ${side.said[tick]}`),
      make("h4", { textContent: "Action: the first one, and what follows" }), actionsOf(side, tick),
      make("h4", { textContent: "Memory, as it was read" }), ...memoryOf(side, tick));
  };

  const longest = () =>
    episode.sides.reduce((a, b) => (b.times.length > a.times.length ? b : a));

  const show = () => {
    const tick = Number(part("tick").value);
    const side = longest();
    part("sides").replaceChildren(...episode.sides.map((one) => sideOf(one, tick)));
    [...part("timeline").children].forEach((mark, i) => mark.classList.toggle("now", i === tick));
    const place = `tick ${tick + 1} of ${side.times.length}, ${seconds(side.times[tick])}, ` +
      side.phases[tick];
    part("tick").setAttribute("aria-valuetext", place);
    part("place").textContent = place;
  };

  const open = (index) => {
    episode = episodes[index];
    const side = longest();
    part("episode").value = String(index);
    part("tick").max = side.times.length - 1;
    part("tick").value = 0;
    part("timeline").replaceChildren(
      ...side.phases.map((phase) => make("span", { className: phase })));
    const streams = episode.sides[0].streams;
    part("stream").replaceChildren(
      ...streams.map(({ name }) => make("option", { value: name, textContent: name })));
    part("stream").closest("label").hidden = streams.length < 2;
    show();
  };

  const move = (by) => {
    part("tick").value = Number(part("tick").value) + by;
    show();
  };

  const stop = () => {
    clearInterval(playing);
    playing = null;
    part("play").textContent = "play";
  };

  part("play").addEventListener("click", () => {
    if (playing) return stop();
    if (part("tick").value === part("tick").max) part("tick").value = 0;
    part("play").textContent = "pause";
    playing = setInterval(() => {
      move(1);
      if (part("tick").value === part("tick").max) stop();
    }, 400);
  });
  part("back").addEventListener("click", () => move(-1));
  part("on").addEventListener("click", () => move(1));
  part("tick").addEventListener("input", show);
  part("stream").addEventListener("change", show);
  part("episode").addEventListener("change", (event) => open(Number(event.target.value)));
  for (const jump of document.querySelectorAll("[data-episode]")) {
    jump.addEventListener("click", () => open(Number(jump.dataset.episode)));
  }
  const explained = episodes.findIndex(({ sides }) => sides[0].streams.length > 0);
  open(Math.max(explained, 0)); // the first with slots, if any has
})();
