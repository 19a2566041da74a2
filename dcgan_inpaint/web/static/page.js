// The page shows a view of the photo, which the server has scaled down if it is large. The hole is painted at
// the size of the view. Squares are stored in pixels of the photo. A request contains the photo's file, the mask
// as an image at the size of the view, and the crop, unless each hole is completed by the face that it lies on.

const $ = (id) => document.getElementById(id);
const HOLE_COLOR = "#e0218a"; // magenta, which is rare in photos
const MAX_MASK_SIZE = 2048; // px of the longer side; larger mask images are scaled down
const MIN_CROP_SIZE = 8; // px
const MAX_ZOOM = 16;
const MASK_LABELS = { // of masks whose names in conf/mask say too little
  center: "square in the center",
  freeform: "brush strokes",
  grid: "all but a grid of dots",
  half: "one half",
  left: "left half",
  pattern: "blobs",
  random: "some dots",
  random80: "many dots",
  scattered: "dots",
};

const about = await (await fetch("about")).json(); // models with their examples, names of the masks, and limits
const TOO_LARGE = `photo: file is too large. Use a file of at most ${about.max_bytes / 2 ** 20} MB`;
const TWO_FACES = "A painted part lies on two faces. Erase it between them, so that each face has a part of its own.";
const NO_FACE = "No face found: the square is in the center. Move it around the part to fill in.";
let source = null; // file or address of the photo that was chosen last
let photo = null; // {source, file, width, height}
let crop = null; // {x, y, side} of the square around the first face, or where the user has moved it
let cropMoved = false;
let faces = []; // corners [[x, y], ...] of the squares around all faces, once they are found
let facesFound = null; // settled when the search for them has ended
let steps = []; // painting steps; undo repaints all but the last
let undoneSteps = []; // the last one is the next for redo
let cursor = { x: 0, y: 0 }; // position of the brush in px of the view
let view = { zoom: 1, x: 0, y: 0 }; // x and y of the visible part, as shares of the photo's size
let completionId = null; // identifier of the completion on the server

// ---- errors and requests

function showError(message) {
  $("error").textContent = message;
}

const controllers = {}; // by kind of task

// Starts a task and cancels an earlier one of the same kind, so that the last one wins.
function begin(kind) {
  controllers[kind]?.abort();
  controllers[kind] = new AbortController();
  return controllers[kind].signal;
}

const cancel = (...kinds) => kinds.forEach((kind) => controllers[kind]?.abort());

// Returns what `read` makes of the response. Returns undefined if the task has been cancelled, or if the request has
// failed and an error is shown.
async function request(url, signal, options, read) {
  showError("");
  try {
    const response = await fetch(url, { signal, ...options });
    if (response.ok) return await read(response);
    const message = await response.text();
    if (!signal.aborted) showError(response.status === 413 ? TOO_LARGE : message);
  } catch {
    if (!signal.aborted) showError("The server does not respond.");
  }
}

const readBlob = (response) => response.blob();
const readJson = (response) => response.json();

// ---- photo

// Loads a photo from a file or an address. The present photo stays until the new one is there.
async function loadPhoto(newSource, keptSteps = []) {
  if (!newSource) return;
  const signal = begin("photo");
  source = newSource;
  showError("");
  $("loading").textContent = "Loading the photo";
  const loaded = await fetchPhoto(newSource, signal);
  if (signal.aborted) return;
  $("loading").textContent = loaded?.without_face ? NO_FACE : "";
  if (!loaded) return;
  discardCompletion();
  const { file, image, width, height, crop: [x, y, side] } = loaded;
  $("photo").src = $("original").src = image.src;
  photo = { source, file, width, height };
  crop = { x, y, side };
  cropMoved = false;
  faces = [];
  facesFound = findFaces(file);
  Object.assign($("hole"), { width: image.naturalWidth, height: image.naturalHeight });
  $("stage").style.aspectRatio = `${width} / ${height}`;
  // Small photos are enlarged, and large ones fit into the window.
  for (const id of ["stage", "comparison"]) $(id).style.width = `min(100%, 36rem, ${(70 * width) / height}vh)`;
  [steps, undoneSteps] = [keptSteps, []];
  repaint();
  cursor = { x: viewScale() * (x + side / 2), y: viewScale() * (y + side / 2) };
  $("hole-section").hidden = false;
  if (!keptSteps.length) setView(1, 0, 0);
  updateOverlay();
}

const modelQuery = () => new URLSearchParams({ model: $("model").value });

// Returns the response of the server with the file and its decoded view, or undefined after an error.
async function fetchPhoto(newSource, signal) {
  const file = typeof newSource === "string" ? await request(newSource, signal, {}, readBlob) : newSource;
  if (!file) return;
  if (file.size > about.max_bytes) return showError(TOO_LARGE);
  const response = await request(`photo?${modelQuery()}`, signal, { method: "POST", body: file }, readJson);
  if (!response) return;
  const image = new Image();
  image.src = response.view;
  await image.decode();
  return { ...response, file, image };
}

// Finds the other faces, which takes longer than the first one.
async function findFaces(file) {
  const signal = begin("faces");
  const response = await request(`faces?${modelQuery()}`, signal, { method: "POST", body: file }, readJson);
  if (!response || signal.aborted) return;
  faces = response.squares;
  if (faces.length > 1) $("loading").textContent = `${faces.length} faces found. Paint over any of them.`;
  updateOverlay();
}

$("photo-file").onchange = (event) => {
  loadPhoto(event.target.files[0]);
  event.target.value = ""; // allows choosing the same file again
};
document.ondragover = (event) => {
  event.preventDefault();
  $("photo-section").classList.add("drop-target");
};
document.ondragleave = () => $("photo-section").classList.remove("drop-target");
document.ondrop = (event) => {
  event.preventDefault();
  $("photo-section").classList.remove("drop-target");
  loadPhoto(event.dataTransfer.files[0]);
};

const selectedModel = () => about.models[$("model").selectedIndex];

// Shows the description and the examples of the selected model.
function showModel() {
  const { description, examples, max_candidates } = selectedModel();
  $("model-description").textContent = description;
  $("candidate-count-part").hidden = max_candidates === 1;
  $("examples-part").hidden = !examples.length;
  const buttons = examples.map((name, i) => {
    const button = createImageButton(`examples/${name}`, `Portrait ${i + 1}`, `${i + 1}`);
    button.onclick = () => loadPhoto(`examples/${name}`);
    return button;
  });
  $("examples").replaceChildren(...buttons);
}

for (const { name } of about.models) $("model").append(new Option(name, name));
$("model").onchange = () => {
  showModel();
  loadPhoto(source, photo?.source === source ? steps : []); // the square of another model differs
};
showModel();

// Returns a button with an image and a short label, which is a part of its accessible name.
function createImageButton(source, name, label) {
  const button = document.createElement("button");
  const image = document.createElement("img");
  image.src = source;
  image.alt = "";
  button.append(image, label);
  button.ariaLabel = name;
  return button;
}

// ---- hole

const viewScale = () => $("hole").width / photo.width; // px of the view per px of the photo
const selectedTool = () => document.querySelector("[name=tool]:checked").value;
const brushWidth = () => Math.max(1, ($("brush-size").value / 100) * crop.side * viewScale()); // px of the view

// A step with points is a stroke. A step with an image replaces the hole. An empty step clears it.
function paintStep(step) {
  const context = $("hole").getContext("2d", { willReadFrequently: true });
  context.globalCompositeOperation = step.erases ? "destination-out" : "source-over";
  if (!step.points) context.clearRect(0, 0, $("hole").width, $("hole").height);
  if (step.image) {
    context.imageSmoothingEnabled = false;
    context.drawImage(step.image, ...step.box);
  }
  if (step.points) {
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = step.width;
    context.strokeStyle = context.fillStyle = HOLE_COLOR;
    context.beginPath();
    context.arc(step.points[0].x, step.points[0].y, step.width / 2, 0, 2 * Math.PI);
    context.fill();
    context.beginPath();
    for (const { x, y } of step.points) context.lineTo(x, y);
    context.stroke();
  }
}

function addStep(step) {
  steps.push(step);
  undoneSteps = [];
  paintStep(step);
  updateButtons();
}

function updateButtons() {
  updateOverlay(); // the squares depend on the last step
  $("undo").disabled = !steps.length;
  $("redo").disabled = !undoneSteps.length;
}

function repaint() {
  paintStep({});
  steps.forEach(paintStep);
  updateButtons();
}

const createStroke = (...points) => ({ points, erases: selectedTool() === "eraser", width: brushWidth() });

function extendStroke(point) {
  const stroke = steps.at(-1);
  stroke.points.push(point);
  paintStep({ ...stroke, points: stroke.points.slice(-2) });
}

// Moves the last step from one list to the other.
function moveStep(from, to) {
  if (from.length) to.push(from.pop());
  repaint();
}

const undo = () => moveStep(steps, undoneSteps);
const redo = () => moveStep(undoneSteps, steps);
$("undo").onclick = undo;
$("redo").onclick = redo;
$("clear").onclick = () => addStep({});

// Returns a canvas with the hole of a mask image in HOLE_COLOR and transparent pixels elsewhere.
function createHoleCanvas(image, whiteIsHole) {
  const canvas = document.createElement("canvas");
  const scale = Math.min(1, MAX_MASK_SIZE / Math.max(image.width, image.height));
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const { data } = pixels;
  const hasAlpha = data.some((value, i) => i % 4 === 3 && value !== data[3]); // alpha that varies is the mask
  const colors = new Uint32Array(data.buffer);
  const holeBytes = [1, 3, 5].map((i) => parseInt(HOLE_COLOR.slice(i, i + 2), 16));
  const [holeColor] = new Uint32Array(Uint8Array.of(...holeBytes, 255).buffer);
  for (let i = 0, k = 0; i < colors.length; i++, k += 4) {
    const level = hasAlpha ? data[k + 3] : 0.299 * data[k] + 0.587 * data[k + 1] + 0.114 * data[k + 2]; // BT.601 luma
    colors[i] = level > 127.5 === whiteIsHole ? holeColor : 0;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

const cropInView = () => [crop.x, crop.y, crop.side, crop.side].map((value) => value * viewScale());

// Returns whether each hole is completed by the face that it lies on, and not by the crop.
const completesFaces = () =>
  faces.length > 1 && !cropMoved && selectedTool() !== "crop" && !steps.at(-1)?.coversCrop;

// Returns the part of the view that can be completed. It consists of complete pixels.
function createCompletedArea() {
  const area = new Path2D();
  if (completesFaces()) {
    for (const square of faces) {
      const corners = square.map((corner) => corner.map((value) => value * viewScale()));
      const [middleX, middleY] = [0, 1].map((axis) => (corners[0][axis] + corners[2][axis]) / 2);
      const side = Math.hypot(corners[1][0] - corners[0][0], corners[1][1] - corners[0][1]);
      const share = Math.max(0, 1 - 4 / side); // 2 px inside: pixels on the edge may lie partly outside
      const inner = corners.map(([x, y]) => [middleX + share * (x - middleX), middleY + share * (y - middleY)]);
      area.addPath(new Path2D(`M${inner.join("L")}Z`));
    }
    return area;
  }
  const [x, y, side] = cropInView();
  const [left, top] = [Math.ceil(x - 1e-6), Math.ceil(y - 1e-6)];
  const [right, bottom] = [Math.floor(x + side + 1e-6), Math.floor(y + side + 1e-6)];
  area.rect(left, top, right - left, bottom - top);
  return area;
}

// Adds a mask as a step. A mask image of the user may cover the photo, if it has the photo's aspect ratio. All others
// cover the crop.
async function loadMask(blob, name, isFile, signal) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    return showError(`${name}: not a readable image`);
  }
  if (signal.aborted) return;
  showError("");
  const { width, height } = photo;
  // The same tolerance as in MaskImage.resized.
  const sameAspect = Math.abs(bitmap.width * height - bitmap.height * width) < Math.max(width, height);
  const coversCrop = !isFile || !sameAspect;
  const box = coversCrop ? cropInView() : [0, 0, $("hole").width, $("hole").height];
  const image = createHoleCanvas(bitmap, isFile && $("white-is-hole").checked);
  addStep({ image, box, coversCrop, bitmap: isFile ? bitmap : null });
}

for (const name of about.masks) $("masks").append(new Option(MASK_LABELS[name] ?? name.replaceAll("_", " "), name));
$("masks").onchange = async (event) => {
  const name = event.target.value;
  event.target.value = ""; // allows choosing the same shape again
  const signal = begin("mask");
  const blob = await request(`masks/${name}`, signal, {}, readBlob);
  if (blob) await loadMask(blob, name, false, signal);
};
$("mask-file").onchange = async (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) await loadMask(file, file.name, true, begin("mask"));
};
$("white-is-hole").onchange = (event) => {
  for (const step of [...steps, ...undoneSteps])
    if (step.bitmap) step.image = createHoleCanvas(step.bitmap, event.target.checked);
  repaint();
};

// Returns the mask as a PNG file at the size of the view (white = known), or undefined if there is no hole that can be
// completed.
function createMaskFile() {
  const { width, height } = $("hole");
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.save();
  context.clip(createCompletedArea());
  context.drawImage($("hole"), 0, 0);
  context.restore();
  const { data } = context.getImageData(0, 0, width, height);
  if (!data.some((value, i) => i % 4 === 3 && value > 127))
    return showError("Nothing is marked inside the square. Paint over the part to fill in.");
  context.globalCompositeOperation = "source-in";
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

// ---- mouse, touch and keyboard

// Draws the crop and the brush over the photo.
function updateOverlay() {
  const { width, height } = photo;
  const percent = (share) => `${100 * share}%`;
  Object.assign($("sheet").style, {
    left: percent(-view.x * view.zoom),
    top: percent(-view.y * view.zoom),
    width: percent(view.zoom),
    height: percent(view.zoom),
  });
  const box = `M${crop.x} ${crop.y}h${crop.side}v${crop.side}h${-crop.side}Z`;
  const squares = completesFaces() ? faces.map((corners) => `M${corners.join("L")}Z`).join("") : box;
  $("squares").setAttribute("viewBox", `0 0 ${width} ${height}`);
  for (const path of $("squares").querySelectorAll("path")) path.setAttribute("d", squares);
  Object.assign($("crop").style, {
    left: percent(crop.x / width),
    top: percent(crop.y / height),
    width: percent(crop.side / width),
    height: percent(crop.side / height),
  });
  Object.assign($("cursor").style, {
    left: percent(cursor.x / $("hole").width),
    top: percent(cursor.y / $("hole").height),
    width: percent(brushWidth() / $("hole").width),
    aspectRatio: 1,
  });
  $("stage").dataset.tool = selectedTool();
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// Sets the crop to whole pixels inside the photo.
function setCrop(x, y, side) {
  const maxSide = Math.min(photo.width, photo.height);
  side = Math.round(clamp(side, Math.min(MIN_CROP_SIZE, maxSide), maxSide));
  x = Math.round(clamp(x, 0, photo.width - side));
  y = Math.round(clamp(y, 0, photo.height - side));
  crop = { x, y, side };
  cropMoved = true;
  updateOverlay();
}

// Shows the photo enlarged by zoom, from the point (x, y), which is given as shares of its size.
function setView(zoom, x, y) {
  zoom = clamp(zoom, 1, MAX_ZOOM);
  view = { zoom, x: clamp(x, 0, 1 - 1 / zoom), y: clamp(y, 0, 1 - 1 / zoom) };
  updateOverlay();
}

// Zooms by a factor and moves the point of the photo at `from` to `to`, both in px of the window.
function moveView(factor, from, to = from) {
  const box = stage.getBoundingClientRect();
  const zoom = clamp(view.zoom * factor, 1, MAX_ZOOM);
  const x = view.x + (from.x - box.left) / box.width / view.zoom - (to.x - box.left) / box.width / zoom;
  const y = view.y + (from.y - box.top) / box.height / view.zoom - (to.y - box.top) / box.height / zoom;
  setView(zoom, x, y);
}

function positionInView(event) {
  const box = $("hole").getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * $("hole").width;
  const y = ((event.clientY - box.top) / box.height) * $("hole").height;
  return { x, y };
}

const stage = $("stage");
let handleDrag = null; // called with the position in the view and the event of each move while the button is down

// Dragging a corner keeps the opposite corner fixed. Dragging elsewhere moves the crop.
function createCropDrag(event) {
  const start = { ...crop };
  const from = positionInView(event);
  if (!event.target.dataset.corner)
    return (to) => setCrop(start.x + (to.x - from.x) / viewScale(), start.y + (to.y - from.y) / viewScale(), start.side);
  const [u, v] = event.target.dataset.corner.split(",").map(Number);
  const fixed = { x: start.x + (1 - u) * start.side, y: start.y + (1 - v) * start.side };
  return (to) => {
    const width = (to.x / viewScale() - fixed.x) * (2 * u - 1);
    const height = (to.y / viewScale() - fixed.y) * (2 * v - 1);
    const maxSide = Math.min(u ? photo.width - fixed.x : fixed.x, v ? photo.height - fixed.y : fixed.y);
    const side = Math.round(clamp(Math.max(width, height), Math.min(MIN_CROP_SIZE, maxSide), maxSide));
    setCrop(u ? fixed.x : fixed.x - side, v ? fixed.y : fixed.y - side, side);
  };
}

function createViewDrag(event) {
  let from = positionInWindow(event);
  return (_, moved) => {
    moveView(1, from, positionInWindow(moved));
    from = positionInWindow(moved);
  };
}

const fingers = new Map(); // positions of the fingers on the stage, in px of the window
const positionInWindow = (event) => ({ x: event.clientX, y: event.clientY });

let pinchStart = null; // the view and the positions of two fingers when they were put down

// Two fingers zoom and move the photo. Each one has events of its own, so all moves are relative to the start.
function pinch() {
  const [[a, b], [c, d]] = [pinchStart.points, [...fingers.values()]];
  const distance = (p, q) => Math.max(1, Math.hypot(p.x - q.x, p.y - q.y));
  const middle = (p, q) => ({ x: (p.x + q.x) / 2, y: (p.y + q.y) / 2 });
  view = pinchStart.view;
  moveView(distance(c, d) / distance(a, b), middle(a, b), middle(c, d));
}

stage.onpointerdown = (event) => {
  if (event.button !== 0) return;
  stage.setPointerCapture(event.pointerId);
  if (event.pointerType === "touch") fingers.set(event.pointerId, positionInWindow(event));
  pinchStart = fingers.size === 2 ? { view, points: [...fingers.values()] } : null;
  if (fingers.size > 1) {
    if (handleDrag === extendStroke) undo(); // the first finger has begun to paint
    handleDrag = null;
  } else if (event.shiftKey) handleDrag = createViewDrag(event);
  else if (selectedTool() === "crop") handleDrag = createCropDrag(event);
  else {
    handleDrag = extendStroke;
    addStep(createStroke(positionInView(event)));
  }
};
stage.onpointermove = (event) => {
  cursor = positionInView(event);
  if (fingers.has(event.pointerId)) fingers.set(event.pointerId, positionInWindow(event));
  if (pinchStart) pinch();
  if (handleDrag) handleDrag(cursor, event);
  updateOverlay();
};
stage.onpointerup = stage.onpointercancel = (event) => {
  fingers.delete(event.pointerId);
  handleDrag = pinchStart = null;
};
stage.onwheel = (event) => {
  const { zoom } = view;
  moveView(2 ** (-event.deltaY / (event.ctrlKey ? 100 : 400)), positionInWindow(event)); // a trackpad sends Ctrl
  if (event.ctrlKey || view.zoom !== zoom) event.preventDefault(); // else the page scrolls
};

const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const cursorShare = () => ({ x: cursor.x / $("hole").width, y: cursor.y / $("hole").height });

stage.onkeydown = (event) => {
  const [x, y] = DIRECTIONS[event.key] ?? [0, 0];
  const cropSelected = selectedTool() === "crop";
  const zoom = { "+": view.zoom * 1.5, "=": view.zoom * 1.5, "-": view.zoom / 1.5, 0: 1 }[event.key];
  if (event.ctrlKey || event.metaKey || event.altKey) return; // shortcuts of the browser
  if (zoom) setView(zoom, cursorShare().x - 0.5 / zoom, cursorShare().y - 0.5 / zoom);
  else if (event.key === " " && !cropSelected) addStep(createStroke(cursor));
  else if (!DIRECTIONS[event.key]) return;
  else if (cropSelected) {
    const step = Math.max(1, Math.round(crop.side / 20));
    if (event.shiftKey) setCrop(crop.x, crop.y, crop.side + step * (x || y));
    else setCrop(crop.x + step * x, crop.y + step * y, crop.side);
  } else {
    const step = Math.max(1, brushWidth() / 3);
    const from = cursor;
    cursor = {
      x: clamp(cursor.x + step * x, 0, $("hole").width),
      y: clamp(cursor.y + step * y, 0, $("hole").height),
    };
    if (event.shiftKey) addStep(createStroke(from, cursor));
    const { x: u, y: v } = cursorShare(); // stays visible
    setView(view.zoom, clamp(view.x, u - 1 / view.zoom, u), clamp(view.y, v - 1 / view.zoom, v));
  }
  event.preventDefault();
  updateOverlay();
};
document.onkeydown = (event) => {
  if (!(event.ctrlKey || event.metaKey) || !photo) return;
  const key = event.key.toLowerCase();
  if (key === "y" || (key === "z" && event.shiftKey)) redo();
  else if (key === "z") undo();
  else return;
  event.preventDefault();
};
for (const input of [$("brush-size"), ...document.querySelectorAll("[name=tool]")]) input.oninput = updateOverlay;

// ---- search

for (let count = 1; count <= about.max_candidates; count++)
  $("candidate-count").append(new Option(count, count, count === 4, count === 4));

// Stops the search and other tasks of the photo, removes the completion from the server, and hides it.
function discardCompletion() {
  cancel("mask", "complete", "choose");
  if (completionId) fetch(`completions/${completionId}`, { method: "DELETE", keepalive: true });
  completionId = null;
  for (const name of ["search", "result"]) $(`${name}-section`).hidden = true;
}
window.onpagehide = discardCompletion;

// Yields [name, data] of each server-sent event.
async function* readEvents(stream) {
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

let totals = []; // objective of each iteration

function drawCurve() {
  const [low, high] = [Math.min, Math.max].map((extreme) => totals.reduce((a, b) => extreme(a, b)));
  const last = Math.max(1, totals.length - 1);
  const points = totals.map((total, i) => `${(100 * i) / last},${48 - (46 * (total - low)) / (high - low || 1)}`);
  $("curve").firstElementChild.setAttribute("points", points.join(" "));
  $("objective").textContent = `It fell from ${totals[0].toPrecision(3)} to ${totals.at(-1).toPrecision(3)}.`;
}

const eventHandlers = {
  position({ ahead }) {
    $("status").textContent = ahead ? `Waiting: number ${ahead + 1} in the queue` : "Working";
  },
  frame({ iteration, iterations, image, totals: newTotals }) {
    if (!iterations) return; // completed in one pass, without a search
    if (!totals.length) $("status").textContent = "Searching"; // once, as screen readers announce every change
    $("search-section").hidden = $("progress").hidden = false;
    Object.assign($("progress"), { max: iterations, value: iteration });
    $("frame").src = image;
    totals.push(...newTotals);
    drawCurve();
  },
  async done(summary) {
    completionId = summary.id;
    totals = summary.totals;
    if (totals.length > 1) drawCurve(); // only a search has several
    $("far-image").hidden = !summary.is_far;
    showCandidates(summary);
    await chooseCandidate(0);
  },
  error({ message }) {
    $("status").textContent = "";
    showError(message.includes("detected faces contains the hole") ? TWO_FACES : message);
  },
};

$("complete").onclick = async () => {
  showError("");
  const shown = photo;
  $("status").textContent = "Looking for faces";
  await facesFound;
  $("status").textContent = "";
  if (photo !== shown) return;
  const mask = await createMaskFile();
  if (!mask || photo !== shown) return; // another photo has been loaded meanwhile
  discardCompletion();
  totals = [];
  const form = new FormData();
  form.append("photo", photo.file, "photo");
  form.append("mask", mask, "mask");
  form.append("model", $("model").value);
  if (!completesFaces()) form.append("crop", [crop.x, crop.y, crop.side, crop.side]);
  form.append("candidates", Math.min($("candidate-count").value, selectedModel().max_candidates));
  const signal = begin("complete");
  showRunning(true);
  $("status").textContent = "Sending the photo";
  try {
    const body = await request("complete", signal, { method: "POST", body: form }, (response) => response.body);
    if (!body && !signal.aborted) $("status").textContent = "";
    if (body) for await (const [name, data] of readEvents(body)) await eventHandlers[name](data);
  } catch (error) {
    if (!signal.aborted) showError("The connection to the server was lost.");
  }
  if (signal !== controllers.complete.signal) return; // another one has started
  if (signal.aborted) $("status").textContent = "Stopped";
  showRunning(false);
};
$("stop").onclick = () => cancel("complete");

function showRunning(isRunning) {
  $("complete").hidden = isRunning;
  $("stop").hidden = !isRunning;
  $("progress").hidden = true; // until a search reports its progress
}

// ---- candidates and result

function showCandidates({ candidates, mean, spread, max_spread, predicted_error }) {
  const choices = candidates.map((image, k) => [image, `Sample ${k + 1}`, `${k + 1}`, k]);
  if (mean) choices.push([mean, "Average of the samples", "Average", "mean"]);
  const buttons = choices.map(([image, name, label, value]) => {
    const button = createImageButton(image, name, label);
    button.value = value;
    button.onclick = () => chooseCandidate(value);
    return button;
  });
  $("candidates").replaceChildren(...buttons);
  $("samples-part").hidden = choices.length === 1;
  $("spread").hidden = !spread;
  if (!spread) return;
  $("spread").querySelector("img").src = spread;
  $("spread").querySelector("figcaption").textContent =
    `Black: the samples agree. White: they differ by ${max_spread.toFixed(0)} of 255 levels of brightness.` +
    (predicted_error ? ` The average is probably wrong by about ${predicted_error.toFixed(0)} of 255.` : "");
}

async function chooseCandidate(name) {
  const [id, signal] = [completionId, begin("choose")];
  $("status").textContent = "Loading the result";
  const blob = await request(`completions/${id}/${name}`, signal, {}, readBlob);
  if (signal.aborted) return;
  if (!blob) return ($("status").textContent = ""); // an error is shown
  URL.revokeObjectURL($("download-photo").href);
  $("completed").src = $("download-photo").href = URL.createObjectURL(blob);
  $("download-mask").href = `completions/${id}/mask`;
  for (const button of $("candidates").children) button.ariaPressed = button.value === `${name}`;
  await $("completed").decode().catch(() => {}); // another one has replaced it
  if (signal.aborted) return;
  const isNew = $("result-section").hidden;
  $("result-section").hidden = false;
  if (isNew && matchMedia("(max-width: 61.99rem)").matches) $("result-section").scrollIntoView();
  $("status").textContent = "Done";
}

$("split").oninput = () => $("comparison").style.setProperty("--split", `${$("split").value}%`);
