// The page to touch: what is drawn, chosen and moved, and what is shown for it. Needs network.js and weights.js.
"use strict";

(() => {
  const root = document.getElementById("touch"), part = name => root.querySelector(`[data-touch="${name}"]`);
  // How far an arrow key moves the pen, and where it starts, in units of the field.
  const SAMPLES = 12, PEN = 0.04, START = [0.5, 0.2];
  const state = { model: null, k: 0, strokes: [], picked: -1, image: new Float32Array(784), pen: null, down: false };

  function element(tag, attributes, text = "") {
    const made = Object.assign(document.createElement(tag), { textContent: text });
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  // White on black as in MNIST; the style sheet turns it round where the page is light.
  function show(canvas, image) {
    const pixels = new ImageData(28, 28);
    image.forEach((value, n) => pixels.data.set([255 * value, 255 * value, 255 * value, 255], 4 * n));
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  const picture = label => element("canvas", { class: "touch-image", width: 28, height: 28, role: "img", "aria-label": label });
  const likeliest = probs => probs.indexOf(Math.max(...probs));
  const figure = value => value.toFixed(3);
  // Of the test images: what a component takes, in a word or two.
  const most = ({ shares }, k) => (shares[k] < 0.5 ? "often" : "mostly");
  const takes = (model, k) =>
    model.digits[k] === null ? "takes no test image" : `takes ${most(model, k)} the digit ${model.digits[k]}`;

  // The field, as it is drawn on.
  function drawField() {
    const field = part("field"), pen = field.getContext("2d"), size = field.width;
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, size, size);
    pen.imageSmoothingEnabled = false;
    if (state.picked >= 0) pen.drawImage(part("seen"), 0, 0, size, size);
    pen.lineCap = pen.lineJoin = "round";
    pen.strokeStyle = pen.fillStyle = "#fff";
    pen.lineWidth = size * 0.1;
    for (const stroke of state.strokes) {
      pen.beginPath();
      stroke.forEach(([x, y]) => pen.lineTo(x * size, y * size));
      if (stroke.length === 1) pen.lineTo(stroke[0][0] * size, stroke[0][1] * size);
      pen.stroke();
    }
    if (state.pen) {
      pen.strokeStyle = state.down ? "#e69f00" : "#56b4e9";
      pen.lineWidth = 3;
      pen.beginPath();
      pen.arc(state.pen[0] * size, state.pen[1] * size, size * 0.045, 0, 7);
      pen.stroke();
    }
  }

  function drawn() {
    state.picked = -1;
    state.image = touchNetwork.normalised(state.strokes);
    update();
  }

  // Image, bars, and in words what they say.
  function update() {
    show(part("seen"), state.image);
    drawField();
    const empty = !state.image.some(value => value > 0), probs = touchNetwork.probabilities(state.model, state.image);
    const rows = [...part("bars").children], best = likeliest(probs);
    rows.forEach((row, k) => {
      const value = empty ? 0 : probs[k];
      row.style.setProperty("--share", value);
      row.lastElementChild.textContent = empty ? "–" : figure(value);
      row.classList.toggle("touch-best", !empty && k === best);
    });
    state.probs = probs;
    part("images").querySelectorAll("button").forEach((button, i) => button.setAttribute("aria-pressed", i === state.picked));
    state.words = empty
      ? "The field is empty."
      : `Most probable: component ${best}, with a probability of ${figure(probs[best])}; it ${takes(state.model, best)}.`;
  }

  // Said when a stroke has ended, so that a screen reader isn't told every point of it.
  const say = () => (part("words").textContent = state.words);

  function choose(k) {
    state.k = k;
    [...part("bars").children].forEach((row, i) => row.setAttribute("aria-pressed", i === k));
    root.querySelectorAll("[data-touch-k]").forEach(place => (place.textContent = k));
    drawSamples();
    move(0, 0);
  }

  function drawSamples() {
    for (const canvas of part("samples").children) {
      show(canvas, touchNetwork.decode(state.model, touchNetwork.draw(state.model, state.k)));
    }
  }

  // Standard deviations along the two directions.
  function move(first, second) {
    const limit = 3, clip = value => Math.round(Math.min(limit, Math.max(-limit, value)) * 10) / 10;
    state.steps = [clip(first), clip(second)];
    state.steps.forEach((value, i) => {
      const slider = part(`direction-${i}`), text = (value > 0 ? "+" : "") + value.toFixed(1).replace("-", "−");
      slider.value = value;
      slider.setAttribute("aria-valuetext", `${text} standard deviations`);
      slider.nextElementSibling.textContent = text;
    });
    const dot = part("pad").firstElementChild;
    dot.style.left = 50 + (50 * state.steps[0]) / limit + "%";
    dot.style.top = 50 - (50 * state.steps[1]) / limit + "%";
    state.decoded = touchNetwork.decode(state.model, touchNetwork.code(state.model, state.k, state.steps));
    show(part("decoded"), state.decoded);
  }

  function use(model) {
    state.model = model;
    [...part("bars").children].forEach((row, k) => {
      const share = figure(model.shares[k] ?? 0), digit = model.digits[k];
      row.children[1].textContent = digit === null ? "none" : `${most(model, k)} ${digit}`;
      row.title =
        digit === null
          ? `Component ${k} takes no test image.`
          : `Of the test images that component ${k} takes, a share of ${share} shows a ${digit}.`;
    });
    root.querySelectorAll("[data-touch-about]").forEach(text => (text.hidden = text.dataset.touchAbout !== model.name));
    update();
    say();
    choose(likeliest(state.probs));
  }

  function place(event, target) {
    const box = target.getBoundingClientRect();
    const inside = value => Math.min(1, Math.max(0, value));
    return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
  }

  // Calls begin(point) and then go(point) while the pointer is down.
  function follow(target, begin, go, end) {
    target.addEventListener("pointerdown", event => {
      if (event.button || !event.isPrimary) return;
      target.setPointerCapture(event.pointerId);
      begin(place(event, target));
    });
    target.addEventListener("pointermove", event => {
      if (!target.hasPointerCapture(event.pointerId)) return;
      const all = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
      go((all.length ? all : [event]).map(one => place(one, target)));
    });
    target.addEventListener("lostpointercapture", end);
  }

  function drawWithKeys(event) {
    state.pen = state.pen || START;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) {
      const inside = value => Math.min(0.95, Math.max(0.05, value));
      state.pen = state.pen.map((value, d) => inside(value + PEN * step[d]));
      if (state.down) state.strokes[state.strokes.length - 1].push(state.pen);
    } else if (event.key === " ") {
      state.down = !state.down;
      if (state.down) state.strokes.push([state.pen]);
    } else if (event.key === "Delete" || event.key === "Backspace") clear();
    else return;
    event.preventDefault();
    if (state.strokes.length) drawn();
    else drawField();
    if (!state.down) say();
  }

  function clear() {
    state.strokes = [];
    state.down = false;
    drawn();
    say();
  }

  function pick(i, image) {
    Object.assign(state, { strokes: [], down: false, picked: i, image });
    update();
    say();
    choose(likeliest(state.probs));
  }

  function build(models, images) {
    models.forEach((model, i) => {
      const label = element("label", {}), button = element("input", { type: "radio", name: "touch-model", value: model.name });
      button.checked = i === 0;
      button.addEventListener("change", () => use(model));
      label.append(button, element("code", {}, model.name));
      part("models").append(label);
    });
    images.forEach((image, i) => {
      const button = element("button", { type: "button", "aria-pressed": false });
      const canvas = picture(`Test image ${touchData.places[i]}, a ${touchData.digits[i]}`);
      button.append(canvas);
      show(canvas, image);
      button.addEventListener("click", () => pick(i, image));
      part("images").append(button);
    });
    for (let k = 0; k < models[0].components; k++) {
      const row = element("button", { type: "button", "aria-pressed": false });
      row.style.setProperty("--colour", touchData.colours[k]);
      const bar = element("span", { class: "touch-bar", "aria-hidden": true });
      row.append(element("span", {}, `k = ${k}`), element("span", {}), bar, element("span", {}));
      row.addEventListener("click", () => choose(k));
      part("bars").append(row);
    }
    for (let i = 1; i <= SAMPLES; i++) part("samples").append(picture(`Sample ${i}`));
    part("clear").addEventListener("click", clear);
    part("again").addEventListener("click", drawSamples);
    const field = part("field");
    follow(
      field,
      point => {
        Object.assign(state, { pen: null, down: false });
        state.strokes.push([point]);
        drawn();
      },
      points => {
        if (!state.strokes.length) state.strokes.push([]); // cleared meanwhile
        state.strokes[state.strokes.length - 1].push(...points);
        drawn();
      },
      say,
    );
    field.addEventListener("keydown", drawWithKeys);
    field.addEventListener("focus", () => {
      if (!field.matches(":focus-visible")) return;
      state.pen = state.pen || START;
      drawField();
    });
    field.addEventListener("blur", () => {
      Object.assign(state, { pen: null, down: false });
      drawField();
    });
    const to = ([x, y]) => move(6 * x - 3, 3 - 6 * y);
    follow(part("pad"), to, points => to(points[points.length - 1]), () => {});
    [0, 1].forEach(i =>
      part(`direction-${i}`).addEventListener("input", event => {
        const steps = [...state.steps];
        steps[i] = Number(event.target.value);
        move(...steps);
      }),
    );
  }

  async function start() {
    const { models, images } = await touchNetwork.read(touchData);
    build(models, images);
    Object.assign(state, { picked: 3, image: images[3] });
    use(models[0]);
    root.classList.add("touch-ready");
    window.touch = { state, models, draw: touchNetwork.draw }; // for the console, and for tests
  }

  start().catch(error => {
    part("wait").textContent = "This page needs a newer browser: it could not read its networks.";
    throw error;
  });
})();
