// Pictures and videos that the operator adds. They stay in this page's memory and go to the service only with a search.

let last = 0;

const isVideo = (file) => file.type.startsWith("video/") || /\.(mp4|mov|mkv|avi|ts|m2ts|webm)$/i.test(file.name || "");

/** Whether a picture of this size is probably no crop of one person: wider than tall, or large and wide. */
const looksFull = (width, height) => width > height || (width * height >= 500_000 && width >= 0.55 * height);

/** Return an item of the query for a file, smaller if the service's `limits` ask for it. An `Error` says why the file cannot be used. */
export async function readFile(file, limits) {
  last += 1;
  const item = { key: last, name: file.name || "pasted picture", blob: file, url: URL.createObjectURL(file), boxes: [] };
  if (isVideo(file)) return { ...item, kind: "video" };
  const size = await measure(item.url);
  if (!size) {
    URL.revokeObjectURL(item.url);
    throw new Error(`${item.name} is not a picture or a video that this browser can show. Use JPEG, PNG, WebP, BMP or MP4.`);
  }
  if (limits && (size.width * size.height > limits.max_pixels || file.size > limits.max_frame_bytes)) {
    const smaller = await shrink(item.url, size, limits.max_pixels);
    URL.revokeObjectURL(item.url);
    return readFile(new File([smaller], item.name, { type: "image/jpeg" }), null);
  }
  const full = looksFull(size.width, size.height);
  return { ...item, kind: "picture", ...size, full, whole: !full };
}

/** Return an item for the current frame of a video element. */
export async function readVideoFrame(video, name) {
  const blob = await draw(video, video.videoWidth, video.videoHeight, "image/png");
  return readFile(new File([blob], `${name} at ${video.currentTime.toFixed(2)} s`, { type: "image/png" }));
}

/** Return a picture with at most so many pixels: cameras of phones make larger ones than the service reads. */
async function shrink(url, { width, height }, pixels) {
  const scale = Math.min(1, Math.sqrt(pixels / (width * height)));
  const image = new Image();
  image.src = url;
  await image.decode();
  return draw(image, Math.floor(width * scale), Math.floor(height * scale), "image/jpeg");
}

/** Draw an image or the frame of a video, and return it as a file. */
function draw(source, width, height, type) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").drawImage(source, 0, 0, width, height);
  return new Promise((resolve) => { canvas.toBlob(resolve, type, 0.95); });
}

/** Return the files of a drop, those of folders in the order of their names. It must be called while the drop is handled. */
export function filesOf({ items, files }) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...files];
  return Promise.all(entries.map(filesBelow)).then((found) => found.flat());
}

async function filesBelow(entry) {
  if (entry.isFile) return new Promise((resolve, reject) => { entry.file((file) => resolve([file]), reject); });
  const reader = entry.createReader();
  const entries = [];
  let more;
  do { // a reader gives some at a time
    more = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    entries.push(...more);
  } while (more.length);
  entries.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  const shown = entries.filter((each) => !each.name.startsWith("."));
  return (await Promise.all(shown.map(filesBelow))).flat();
}

function measure(url) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve({ width: image.naturalWidth, height: image.naturalHeight });
    image.onerror = () => resolve(null);
    image.src = url;
  });
}

export const release = (item) => URL.revokeObjectURL(item.url);

/** Whether a box must still be drawn on this item, or the operator must say that the picture is a crop. */
export const needsBox = (item) => item.kind === "picture" && !item.whole && item.boxes.length === 0;

/** Return why a search cannot start with these items, or `null`. */
export function findObstacle(items) {
  const videos = items.filter((item) => item.kind === "video").length;
  if (videos > 1) return "A search takes one video. Remove the others, or choose frames from them.";
  if (videos && videos < items.length) return "A search takes either one video or pictures. Remove one, or choose frames from the video.";
  if (items.some(needsBox)) return "A picture is a full frame, not a crop. Draw a box around the person.";
  return null;
}

/** Add the items to a form: `video`, or `frames` and their `boxes`. */
export function addTo(form, items) {
  if (items[0]?.kind === "video") {
    form.append("video", items[0].blob, "video");
    return;
  }
  const boxes = [];
  items.forEach((item, frame) => {
    form.append("frames", item.blob, `frame-${frame}`);
    if (item.boxes.length) item.boxes.forEach((box) => boxes.push([frame, box.x, box.y, box.width, box.height]));
    else boxes.push([frame, 0, 0, item.width, item.height]);
  });
  if (items.some((item) => item.boxes.length)) form.append("boxes", JSON.stringify(boxes));
}
