// The page shows a view of the photo, which the server has scaled down if it is large. The hole is painted at
// the size of the view. The crop is stored in pixels of the photo. A request contains the photo's file, the mask
// as an image at the size of the view, and the crop.

const $ = (id) => document.getElementById(id);
const HOLE_COLOR = "#e0218a"; // magenta, which is rare in photos
const MAX_MASK_SIZE = 2048; // px of the longer side; larger mask images are scaled down
const MIN_CROP_SIZE = 8; // px

const about = await (await fetch("about")).json(); // names of the masks and examples, and limits
const TOO_LARGE = `photo: file is too large. Use a file of at most ${about.max_bytes / 2 ** 20} MB`;
let photo = null; // {file, width, height}
let crop = null; // {x, y, side}
let steps = []; // painting steps; undo repaints all but the last
let cursor = { x: 0, y: 0 }; // position of the brush in px of the view
let search = null; // AbortController of the running search
let completionId = null; // identifier of the completion on the server

// ---- errors and requests

function showError(message) {
  $("error").textContent = message;
}

// Returns the response, or undefined if the request has failed and an error is shown.
async function request(url, options = {}) {
  showError("");
  try {
    const response = await fetch(url, options);
    if (response.ok) return response;
    showError(response.status === 413 ? TOO_LARGE : await response.text());
  } catch (error) {
    if (error.name !== "AbortError") showError("The server does not respond.");
  }
}

// ---- photo

async function loadPhoto(file) {
  if (!file) return;
  if (file.size > about.max_bytes) return showError(TOO_LARGE);
  discardCompletion();
  $("hole-section").hidden = true;
  const response = await request("photo", { method: "POST", body: file });
  if (!response) return;
  const { width, height, crop: [x, y, side], view } = await response.json();
  $("photo").src = $("original").src = view;
  await $("photo").decode();
  photo = { file, width, height };
  crop = { x, y, side };
  const hole = $("hole");
  hole.width = $("photo").naturalWidth;
  hole.height = $("photo").naturalHeight;
  // Small photos are enlarged, and large ones fit into the window.
  for (const id of ["stage", "comparison"]) $(id).style.width = `min(100%, 36rem, ${(70 * width) / height}vh)`;
  steps = [];
  cursor = { x: viewScale() * (x + side / 2), y: viewScale() * (y + side / 2) };
  $("hole-section").hidden = false;
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
for (const name of about.examples) {
  const button = createImageButton(`examples/${name}`, name.replace("_", " "));
  button.onclick = async () => {
    const response = await request(`examples/${name}`);
    if (response) loadPhoto(new File([await response.blob()], name));
  };
  $("examples").append(button);
}

function createImageButton(source, label) {
  const button = document.createElement("button");
  const image = document.createElement("img");
  image.src = source;
  image.alt = ""; // the label describes the button
  button.append(image, label);
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
  paintStep(step);
}

const createStroke = (...points) => ({ points, erases: selectedTool() === "eraser", width: brushWidth() });

function extendStroke(point) {
  const stroke = steps.at(-1);
  stroke.points.push(point);
  paintStep({ ...stroke, points: stroke.points.slice(-2) });
}

function undo() {
  steps.pop();
  paintStep({});
  steps.forEach(paintStep);
}
$("undo").onclick = undo;
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
  const colors = new Uint32Array(pixels.data.buffer);
  const hasAlpha = colors.some((_, i) => pixels.data[4 * i + 3] < 255); // then alpha is the mask
  const [red, green, blue] = [1, 3, 5].map((i) => parseInt(HOLE_COLOR.slice(i, i + 2), 16));
  for (let i = 0; i < pixels.data.length; i += 4) {
    const [r, g, b, alpha] = pixels.data.subarray(i, i + 4);
    const isWhite = (hasAlpha ? alpha : 0.299 * r + 0.587 * g + 0.114 * b) > 127.5; // ITU-R BT.601 luma
    pixels.data.set([red, green, blue, isWhite === whiteIsHole ? 255 : 0], i);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

const cropInView = () => [crop.x, crop.y, crop.side, crop.side].map((value) => value * viewScale());

// A mask with the photo's aspect ratio covers the photo if mayCoverPhoto is set. All others cover the crop.
async function loadMask(blob, name, whiteIsHole, mayCoverPhoto) {
  let image;
  try {
    image = await createImageBitmap(blob);
  } catch {
    return showError(`${name}: not a readable image`);
  }
  showError("");
  const { width, height } = photo;
  // The same tolerance as in MaskImage.resized.
  const sameAspect = Math.abs(image.width * height - image.height * width) < Math.max(width, height);
  const box = mayCoverPhoto && sameAspect ? [0, 0, $("hole").width, $("hole").height] : cropInView();
  addStep({ image: createHoleCanvas(image, whiteIsHole), box });
}

for (const name of about.masks) $("masks").append(new Option(name, name));
$("masks").onchange = async (event) => {
  const name = event.target.value;
  if (!name) return;
  const response = await request(`masks/${name}`);
  if (response) await loadMask(await response.blob(), name, false, false);
};
$("mask-file").onchange = async (event) => {
  const [file] = event.target.files;
  if (file) await loadMask(file, file.name, $("white-is-hole").checked, true);
  event.target.value = "";
};

// Returns the mask as a PNG file at the size of the view (white = known), or undefined if the hole is invalid.
function createMaskFile() {
  const { width, height } = $("hole");
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const [x, y, side] = cropInView();
  // Pixels of the view on the edge of the crop may lie partly outside. They are not part of the hole.
  const [left, top] = [Math.ceil(x - 1e-6), Math.ceil(y - 1e-6)];
  const [right, bottom] = [Math.floor(x + side + 1e-6), Math.floor(y + side + 1e-6)];
  context.drawImage($("hole"), 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  let [inside, outside] = [0, 0];
  for (let i = 3, pixel = 0; i < data.length; i += 4, pixel++) {
    if (data[i] < 128) continue;
    const [u, v] = [pixel % width, Math.floor(pixel / width)];
    if (u >= left && u < right && v >= top && v < bottom) inside++;
    else if (u < left - 1 || u > right || v < top - 1 || v > bottom) outside++;
  }
  if (outside) return showError("The hole extends beyond the crop. Move or enlarge the crop.");
  if (!inside) return showError("There is no hole in the crop. Paint the missing part.");
  context.globalCompositeOperation = "source-in";
  context.fillStyle = "#000";
  context.fillRect(left, top, right - left, bottom - top);
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
  updateOverlay();
}

function positionInView(event) {
  const box = $("hole").getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * $("hole").width;
  const y = ((event.clientY - box.top) / box.height) * $("hole").height;
  return { x, y };
}

let handleDrag = null; // called with each position of the pointer while its button is down

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

const stage = $("stage");
stage.onpointerdown = (event) => {
  if (event.button !== 0) return;
  handleDrag = selectedTool() === "crop" ? createCropDrag(event) : extendStroke;
  stage.setPointerCapture(event.pointerId);
  if (handleDrag === extendStroke) addStep(createStroke(positionInView(event)));
};
stage.onpointermove = (event) => {
  cursor = positionInView(event);
  if (handleDrag) handleDrag(cursor);
  updateOverlay();
};
stage.onpointerup = stage.onpointercancel = () => (handleDrag = null);

const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

stage.onkeydown = (event) => {
  const [x, y] = DIRECTIONS[event.key] ?? [0, 0];
  const cropSelected = selectedTool() === "crop";
  if (event.key === " " && !cropSelected) addStep(createStroke(cursor));
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
  }
  event.preventDefault();
  updateOverlay();
};
document.onkeydown = (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && photo) {
    event.preventDefault();
    undo();
  }
};
for (const input of [$("brush-size"), ...document.querySelectorAll("[name=tool]")]) input.oninput = updateOverlay;

// ---- search

for (let count = 1; count <= about.max_candidates; count++)
  $("candidate-count").append(new Option(count, count, count === 4, count === 4));

// Stops the search, removes the completion from the server, and hides it.
function discardCompletion() {
  search?.abort();
  if (completionId) fetch(`completions/${completionId}`, { method: "DELETE", keepalive: true });
  completionId = null;
  for (const name of ["search", "candidates", "result"]) $(`${name}-section`).hidden = true;
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
  $("objective").textContent = `objective ${totals.at(-1).toPrecision(4)}, initially ${totals[0].toPrecision(4)}`;
}

const eventHandlers = {
  position({ ahead }) {
    $("status").textContent = ahead ? `Waiting: number ${ahead + 1} in the queue` : "Starting";
  },
  frame({ iteration, iterations, image, totals: newTotals }) {
    if (!totals.length) $("status").textContent = "Searching"; // once, as screen readers announce every change
    $("search-section").hidden = false;
    Object.assign($("progress"), { max: iterations, value: iteration });
    $("frame").src = image;
    totals.push(...newTotals);
    drawCurve();
  },
  done(summary) {
    completionId = summary.id;
    totals = summary.totals;
    $("progress").value = $("progress").max;
    if (totals.length) drawCurve(); // only a search has an objective
    $("status").textContent = "Done. Choose a candidate.";
    showCandidates(summary);
  },
  error({ message }) {
    $("status").textContent = "";
    showError(message);
  },
};

$("complete").onclick = async () => {
  showError("");
  $("status").textContent = "";
  const mask = await createMaskFile();
  if (!mask) return;
  discardCompletion();
  totals = [];
  const form = new FormData();
  form.append("photo", photo.file, "photo");
  form.append("mask", mask, "mask");
  form.append("crop", [crop.x, crop.y, crop.side, crop.side]);
  form.append("candidates", $("candidate-count").value);
  const controller = (search = new AbortController());
  $("complete").hidden = true;
  $("stop").hidden = false;
  $("status").textContent = "Uploading";
  const response = await request("complete", { method: "POST", body: form, signal: controller.signal });
  if (!response) $("status").textContent = "";
  else
    try {
      for await (const [name, data] of readEvents(response.body)) eventHandlers[name](data);
    } catch (error) {
      if (!controller.signal.aborted) showError("The connection to the server was lost.");
      $("status").textContent = controller.signal.aborted ? "Stopped" : "";
    }
  if (search !== controller) return; // another search has started
  search = null;
  $("stop").hidden = true;
  $("complete").hidden = false;
};
$("stop").onclick = () => search?.abort();

// ---- candidates and result

function showCandidates({ candidates, mean, spread, max_spread, predicted_error }) {
  const choices = candidates.map((source, k) => [source, `Candidate ${k + 1}`, k]);
  if (mean) choices.push([mean, "Mean", "mean"]);
  $("candidates").replaceChildren();
  for (const [source, label, name] of choices) {
    const button = createImageButton(source, label);
    button.setAttribute("aria-pressed", false);
    button.onclick = () => chooseCandidate(name, button);
    $("candidates").append(button);
  }
  $("spread").hidden = !spread;
  if (spread) {
    $("spread").firstElementChild.src = spread;
    $("spread").lastElementChild.textContent =
      `Spread of the candidates. White is a standard deviation of ${max_spread.toFixed(0)} gray levels (of 255).` +
      (predicted_error ? ` Predicted error of the mean: about ${predicted_error.toFixed(0)} gray levels.` : "");
  }
  $("candidates-section").hidden = false;
}

async function chooseCandidate(name, button) {
  const id = completionId;
  $("status").textContent = "Pasting the candidate into the photo";
  const response = await request(`completions/${id}/${name}`);
  if (!response) return;
  const url = URL.createObjectURL(await response.blob());
  if (id !== completionId) return URL.revokeObjectURL(url); // the completion has been discarded meanwhile
  URL.revokeObjectURL($("download-photo").href);
  for (const other of $("candidates").children) other.setAttribute("aria-pressed", other === button);
  $("completed").src = $("download-photo").href = url;
  $("download-mask").href = `completions/${id}/mask`;
  $("result-section").hidden = false;
  await $("completed").decode();
  $("status").textContent = "Done. The completed photo is shown.";
}

$("split").oninput = () => $("comparison").style.setProperty("--split", `${$("split").value}%`);
