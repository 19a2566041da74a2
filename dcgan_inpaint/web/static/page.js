// The photo as the server shows it (the view) is painted on at the view's size; the square is kept in
// pixels of the photo.  What is sent: the photo's own file, the mask as an image, the square.

const $ = (id) => document.getElementById(id);
const HOLE = "#e0218a"; // how the hole is shown
const LONGEST = 2048; // px of the long side of a mask image that is loaded

const about = await (await fetch("about")).json();
let photo = null; // {file, width, height}
let square = null; // {x, y, side}
let steps = []; // what was painted, one after another: the hole is these drawn again
let pen = { x: 0, y: 0 }; // where the brush is, in px of the view
let search = null; // the AbortController of the search under way
let kept = null; // the name of what is completed

// ---- said to people

function fault(line) {
  $("fault").textContent = line;
}

// an answer that is not as hoped has its reason as its text; undefined: said, and there is none
async function ask(url, options = {}) {
  fault("");
  try {
    const answer = await fetch(url, options);
    if (answer.ok) return answer;
    fault((options.about ?? "") + (await answer.text()));
  } catch (error) {
    if (error.name !== "AbortError") fault("The server does not answer.");
  }
}

// ---- the photo

async function take(file) {
  if (!file) return;
  const about_it = `${file.name ?? "the image"}: `;
  if (file.size > about.size) return fault(`${about_it}too large: at most ${about.size / 2 ** 20} MB`);
  leave();
  $("painting").hidden = true;
  const answer = await ask("photo", { method: "POST", body: file, about: about_it });
  if (!answer) return;
  const { width, height, square: [x, y, side], view } = await answer.json();
  $("photo").src = $("before").src = view;
  await $("photo").decode();
  photo = { file, width, height };
  square = { x, y, side };
  const hole = $("hole");
  hole.width = $("photo").naturalWidth;
  hole.height = $("photo").naturalHeight;
  for (const id of ["stage", "compare"]) // small ones are enlarged, large ones fit in
    $(id).style.width = `min(100%, 36rem, ${(70 * width) / height}vh)`;
  steps = [];
  pen = { x: scale() * (x + side / 2), y: scale() * (y + side / 2) };
  $("painting").hidden = false;
  place();
}

$("file").onchange = (event) => {
  take(event.target.files[0]);
  event.target.value = ""; // the same file may be chosen again
};
document.ondragover = (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
};
document.ondragleave = () => $("drop").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  take(event.dataTransfer.files[0]);
};
for (const name of about.examples) {
  const button = image("button", `examples/${name}`, name);
  button.onclick = async () => {
    const answer = await ask(`examples/${name}`);
    if (answer) take(new File([await answer.blob()], name));
  };
  $("examples").append(button);
}

// an image with its name, as a button or another element
function image(kind, source, name) {
  const element = document.createElement(kind);
  const image = document.createElement("img");
  image.src = source;
  image.alt = "";
  element.append(image, name);
  return element;
}

// ---- the hole

const scale = () => $("hole").width / photo.width; // px of the view per px of the photo
const tool = () => document.querySelector("[name=tool]:checked").value;
const thickness = () => Math.max(1, ($("brush").value / 100) * square.side * scale());

function draw(step) {
  const context = $("hole").getContext("2d", { willReadFrequently: true });
  context.globalCompositeOperation = step.erases ? "destination-out" : "source-over";
  if (!step.points) context.clearRect(0, 0, $("hole").width, $("hole").height);
  if (step.image) {
    context.imageSmoothingEnabled = false;
    context.drawImage(step.image, ...step.box);
  }
  if (step.points) {
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = step.thickness;
    context.strokeStyle = context.fillStyle = HOLE;
    context.beginPath();
    context.arc(step.points[0].x, step.points[0].y, step.thickness / 2, 0, 2 * Math.PI);
    context.fill();
    context.beginPath();
    for (const { x, y } of step.points) context.lineTo(x, y);
    context.stroke();
  }
}

function add(step) {
  steps.push(step);
  draw(step);
}

function extend(point) {
  const stroke = steps.at(-1);
  stroke.points.push(point);
  draw({ ...stroke, points: stroke.points.slice(-2) });
}

const stroke = (...points) => ({ points, erases: tool() === "eraser", thickness: thickness() });

function undo() {
  steps.pop();
  draw({}); // nothing
  steps.forEach(draw);
}
$("undo").onclick = undo;
$("clear").onclick = () => add({});

// a canvas whose hole has the colour of holes and is else empty, of a mask image
function holeOf(image, whiteIsHole) {
  const canvas = document.createElement("canvas");
  const share = Math.min(1, LONGEST / Math.max(image.width, image.height));
  canvas.width = Math.max(1, Math.round(image.width * share));
  canvas.height = Math.max(1, Math.round(image.height * share));
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const levels = new Uint32Array(pixels.data.buffer);
  const transparent = levels.some((_, i) => pixels.data[4 * i + 3] < 255); // then alpha is the mask
  const [red, green, blue] = [1, 3, 5].map((i) => parseInt(HOLE.slice(i, i + 2), 16));
  for (let i = 0; i < pixels.data.length; i += 4) {
    const [r, g, b, alpha] = pixels.data.subarray(i, i + 4);
    const white = (transparent ? alpha : 0.299 * r + 0.587 * g + 0.114 * b) > 127.5;
    pixels.data.set([red, green, blue, white === whiteIsHole ? 255 : 0], i);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

const onSquare = () => [square.x, square.y, square.side, square.side].map((each) => each * scale());

async function takeMask(blob, name, whiteIsHole, mayBeWhole) {
  let image;
  try {
    image = await createImageBitmap(blob);
  } catch {
    return fault(`${name}: cannot be read as an image`);
  }
  fault("");
  const { width, height } = photo;
  const skew = Math.abs(image.width * height - image.height * width); // as in MaskImage.over
  const whole = mayBeWhole && skew < Math.max(width, height);
  const box = whole ? [0, 0, $("hole").width, $("hole").height] : onSquare();
  add({ image: holeOf(image, whiteIsHole), box });
}

for (const name of about.masks) $("masks").append(new Option(name, name));
$("masks").onchange = async (event) => {
  const name = event.target.value;
  if (!name) return;
  const answer = await ask(`masks/${name}`);
  if (answer) await takeMask(await answer.blob(), name, false, false);
};
$("maskfile").onchange = async (event) => {
  const [file] = event.target.files;
  if (file) await takeMask(file, file.name, $("white").checked, true);
  event.target.value = "";
};

// the hole as it is sent: white is known.  undefined: said why there is none
function maskImage() {
  const { width, height } = $("hole");
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const [x, y, side] = onSquare();
  // a view's pixel at the edge of the square may reach outside by a part of it: it is left out
  const [left, top] = [Math.ceil(x - 1e-6), Math.ceil(y - 1e-6)];
  const [right, bottom] = [Math.floor(x + side + 1e-6), Math.floor(y + side + 1e-6)];
  context.drawImage($("hole"), 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  let [inside, outside] = [0, 0];
  for (let i = 3, at = 0; i < data.length; i += 4, at++) {
    if (data[i] < 128) continue;
    const [u, v] = [at % width, Math.floor(at / width)];
    if (u >= left && u < right && v >= top && v < bottom) inside++;
    else if (u < left - 1 || u > right || v < top - 1 || v > bottom) outside++;
  }
  if (outside) return fault("The hole reaches outside the square: move or enlarge the square.");
  if (!inside) return fault("There is no hole in the square: paint what is missing.");
  context.globalCompositeOperation = "source-in";
  context.fillStyle = "#000";
  context.fillRect(left, top, right - left, bottom - top);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

// ---- the pointer, by mouse, finger or keys

function place() {
  const { width, height } = photo;
  const percent = (share) => `${100 * share}%`;
  Object.assign($("square").style, {
    left: percent(square.x / width),
    top: percent(square.y / height),
    width: percent(square.side / width),
    height: percent(square.side / height),
  });
  Object.assign($("pen").style, {
    left: percent(pen.x / $("hole").width),
    top: percent(pen.y / $("hole").height),
    width: percent(thickness() / $("hole").width),
    aspectRatio: 1,
  });
  $("stage").dataset.tool = tool();
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// whole pixels, inside the photo
function setSquare(x, y, side) {
  side = Math.round(clamp(side, Math.min(8, photo.width, photo.height), Math.min(photo.width, photo.height)));
  x = Math.round(clamp(x, 0, photo.width - side));
  y = Math.round(clamp(y, 0, photo.height - side));
  square = { x, y, side };
  place();
}

function at(event) {
  const box = $("hole").getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * $("hole").width;
  const y = ((event.clientY - box.top) / box.height) * $("hole").height;
  return { x, y };
}

let drag = null; // what a move does, from where the pointer went down

// of a corner, the opposite one stays; elsewhere the whole square moves
function dragSquare(event) {
  const start = { ...square };
  const from = at(event);
  if (!event.target.dataset.corner)
    return (to) => setSquare(start.x + (to.x - from.x) / scale(), start.y + (to.y - from.y) / scale(), start.side);
  const [u, v] = event.target.dataset.corner.split(",").map(Number);
  const fixed = { x: start.x + (1 - u) * start.side, y: start.y + (1 - v) * start.side };
  return (to) => {
    const wide = (to.x / scale() - fixed.x) * (2 * u - 1);
    const high = (to.y / scale() - fixed.y) * (2 * v - 1);
    const room = Math.min(u ? photo.width - fixed.x : fixed.x, v ? photo.height - fixed.y : fixed.y);
    const side = Math.round(clamp(Math.max(wide, high), Math.min(8, room), room));
    setSquare(u ? fixed.x : fixed.x - side, v ? fixed.y : fixed.y - side, side);
  };
}

const stage = $("stage");
stage.onpointerdown = (event) => {
  if (event.button !== 0) return;
  drag = tool() === "square" ? dragSquare(event) : extend;
  stage.setPointerCapture(event.pointerId);
  if (drag === extend) add(stroke(at(event)));
};
stage.onpointermove = (event) => {
  pen = at(event);
  if (drag) drag(pen);
  place();
};
stage.onpointerup = stage.onpointercancel = () => (drag = null);

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

stage.onkeydown = (event) => {
  const [x, y] = ARROWS[event.key] ?? [0, 0];
  const onSquareTool = tool() === "square";
  if (event.key === " " && !onSquareTool) add(stroke(pen));
  else if (!ARROWS[event.key]) return;
  else if (onSquareTool) {
    const step = Math.max(1, Math.round(square.side / 20));
    if (event.shiftKey) setSquare(square.x, square.y, square.side + step * (x || y));
    else setSquare(square.x + step * x, square.y + step * y, square.side);
  } else {
    const step = Math.max(1, thickness() / 3);
    const from = pen;
    pen = { x: clamp(pen.x + step * x, 0, $("hole").width), y: clamp(pen.y + step * y, 0, $("hole").height) };
    if (event.shiftKey) add(stroke(from, pen));
  }
  event.preventDefault();
  place();
};
document.onkeydown = (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && photo) {
    event.preventDefault();
    undo();
  }
};
for (const input of [$("brush"), ...document.querySelectorAll("[name=tool]")]) input.oninput = place;

// ---- the search

for (let count = 1; count <= about.candidates; count++) $("count").append(new Option(count, count, count === 4, count === 4));

// what was completed is forgotten, here and there
function leave() {
  search?.abort();
  if (kept) fetch(`completed/${kept}`, { method: "DELETE", keepalive: true });
  kept = null;
  for (const id of ["search", "choice", "chosen"]) $(id).hidden = true;
}
window.onpagehide = leave;

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [, name, data] = part.match(/^event: (\w+)\ndata: (.*)$/);
      yield [name, JSON.parse(data)];
    }
  }
}

let totals = []; // the objective so far

function drawCurve() {
  const [low, high] = [Math.min, Math.max].map((end) => totals.reduce((a, b) => end(a, b)));
  const last = Math.max(1, totals.length - 1);
  const points = totals.map((total, i) => `${(100 * i) / last},${48 - (46 * (total - low)) / (high - low || 1)}`);
  $("curve").firstElementChild.setAttribute("points", points.join(" "));
  $("objective").textContent = `objective ${totals.at(-1).toPrecision(4)}, from ${totals[0].toPrecision(4)}`;
}

const told = {
  place({ ahead }) {
    $("status").textContent = ahead ? `Waiting: ${ahead} ahead of you` : "Your turn";
  },
  frame({ iteration, iterations, image, totals: more }) {
    if (!totals.length) $("status").textContent = "Searching"; // once: it is read aloud
    $("search").hidden = false;
    Object.assign($("progress"), { max: iterations, value: iteration });
    $("frame").src = image;
    totals.push(...more);
    drawCurve();
  },
  done(result) {
    kept = result.name;
    totals = result.totals;
    $("progress").value = $("progress").max;
    drawCurve();
    $("status").textContent = "Done: choose one below";
    showChoice(result);
  },
  fault({ line }) {
    $("status").textContent = "";
    fault(line);
  },
};

$("complete").onclick = async () => {
  fault("");
  $("status").textContent = "";
  const mask = await maskImage();
  if (!mask) return;
  leave();
  totals = [];
  const form = new FormData();
  form.append("photo", photo.file, "photo");
  form.append("mask", mask, "mask");
  form.append("square", [square.x, square.y, square.side, square.side]);
  form.append("candidates", $("count").value);
  const mine = (search = new AbortController());
  $("complete").hidden = true;
  $("stop").hidden = false;
  $("status").textContent = "Sending the photo";
  const answer = await ask("complete", { method: "POST", body: form, signal: mine.signal });
  if (!answer) $("status").textContent = "";
  else
    try {
      for await (const [name, data] of events(answer.body)) told[name](data);
    } catch (error) {
      if (!mine.signal.aborted) fault("The server has gone.");
      $("status").textContent = mine.signal.aborted ? "Stopped" : "";
    }
  if (search !== mine) return;
  search = null;
  $("stop").hidden = true;
  $("complete").hidden = false;
};
$("stop").onclick = () => search?.abort();

// ---- what came out

function showChoice({ candidates, mean, spread, widest, error }) {
  const shown = candidates.map((each, k) => [each, `Candidate ${k + 1}`, k]);
  if (mean) shown.push([mean, "Their mean", "mean"]);
  $("candidates").replaceChildren();
  for (const [source, name, which] of shown) {
    const button = image("button", source, name);
    button.setAttribute("aria-pressed", false);
    button.onclick = () => choose(which, button);
    $("candidates").append(button);
  }
  $("spread").hidden = !spread;
  if (spread) {
    $("spread").firstElementChild.src = spread;
    $("spread").lastElementChild.textContent =
      `Where they differ: white is a standard deviation of ${widest.toFixed(0)} of 255` +
      (error ? `. Their mean is wrong by about ${error.toFixed(0)}, as it was on other faces` : "");
  }
  $("choice").hidden = false;
}

async function choose(which, button) {
  const name = kept;
  $("status").textContent = "Pasting it into the photo";
  const answer = await ask(`completed/${name}/${which}`);
  if (!answer) return;
  const whole = URL.createObjectURL(await answer.blob());
  if (name !== kept) return URL.revokeObjectURL(whole); // another has begun meanwhile
  URL.revokeObjectURL($("download").href);
  for (const each of $("candidates").children) each.setAttribute("aria-pressed", each === button);
  $("after").src = $("download").href = whole;
  $("mask").href = `completed/${name}/mask`;
  $("chosen").hidden = false;
  await $("after").decode();
  $("status").textContent = "Pasted: see below";
}

$("split").oninput = () => $("compare").style.setProperty("--split", `${$("split").value}%`);
