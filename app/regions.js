const COLOURS = ["#ffd166", "#6ee7b7", "#93c5fd", "#f9a8d4", "#fdba74", "#c4b5fd", "#bef264", "#fca5a5"];
const SIDES = [["x", "left"], ["y", "top"], ["w", "width"], ["h", "height"]];
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const entries = () => (Array.isArray(props.value) ? props.value : []);

function fit(box) {
  box.w = clamp(box.w, 0.05, 1); box.h = clamp(box.h, 0.05, 1);
  box.x = clamp(box.x, 0, 1 - box.w); box.y = clamp(box.y, 0, 1 - box.h);
}

function place(node, box) {
  for (const [side, css] of SIDES) node.style[css] = box[side] * 100 + "%";
}

function done(boxes) {
  props.value = boxes.map((box) => ({ ...box }));
  trigger("change");
}

function draw() {
  const root = element.querySelector(".idp-regions");
  if (!root) return;
  const boxes = entries().map((box) => ({ ...box }));
  root.replaceChildren();
  if (!boxes.length) return;
  const canvas = document.createElement("div");
  canvas.className = "idp-canvas";
  canvas.style.aspectRatio = boxes[0].ratio || 1;
  const numbers = document.createElement("div");
  numbers.className = "idp-numbers";
  boxes.forEach((box, index) => {
    const colour = COLOURS[index % COLOURS.length];
    const node = document.createElement("div");
    node.className = "idp-box";
    node.style.setProperty("--box", colour);
    const name = document.createElement("span");
    name.textContent = box.label;
    const handle = document.createElement("i");
    node.append(name, handle);
    place(node, box);
    const title = document.createElement("b");
    title.textContent = box.label;
    numbers.append(title);
    const inputs = SIDES.map(([side, css]) => {
      const input = document.createElement("input");
      input.type = "number"; input.min = 0; input.max = 100; input.step = 1;
      input.value = Math.round(box[side] * 100);
      input.setAttribute("aria-label", `${box.label}: ${css} in percent of the picture`);
      input.addEventListener("change", () => {
        box[side] = clamp(Number(input.value) || 0, 0, 100) / 100;
        fit(box); place(node, box); done(boxes);
      });
      numbers.append(input);
      return input;
    });
    node.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      node.setPointerCapture(event.pointerId);
      const size = canvas.getBoundingClientRect();
      const begin = { ...box, px: event.clientX, py: event.clientY, resize: event.target === handle };
      const move = (now) => {
        const dx = (now.clientX - begin.px) / size.width, dy = (now.clientY - begin.py) / size.height;
        if (begin.resize) {
          box.w = clamp(begin.w + dx, 0.05, 1 - box.x); box.h = clamp(begin.h + dy, 0.05, 1 - box.y);
        } else {
          box.x = clamp(begin.x + dx, 0, 1 - box.w); box.y = clamp(begin.y + dy, 0, 1 - box.h);
        }
        place(node, box);
        SIDES.forEach(([side], i) => { inputs[i].value = Math.round(box[side] * 100); });
      };
      const end = () => {
        node.removeEventListener("pointermove", move);
        node.removeEventListener("pointerup", end);
        node.removeEventListener("pointercancel", end);
        done(boxes);
      };
      node.addEventListener("pointermove", move);
      node.addEventListener("pointerup", end);
      node.addEventListener("pointercancel", end);
    });
    canvas.append(node);
  });
  root.append(canvas, numbers);
}

watch("value", draw);
draw();
