// Images of the server on canvases: pixel for pixel, each canvas as wide as its image; CSS makes it larger or smaller.

// Colours of a difference, by where a pixel is lit: in neither, in the image, in the base, in both. Those of `preview`.
const NEITHER = [38, 38, 38];
const IMAGE = [255, 150, 30];
const BASE = [70, 190, 255];
const BOTH = [150, 150, 150];

/** Split an answer into images: {width, height, channels, pixels, ...what the server says of it}. */
export function imagesOf({ info, pixels }) {
  const { width, height, channels } = info;
  const size = width * height * channels;
  return info.images.map((about, place) => ({
    ...about,
    width,
    height,
    channels,
    pixels: pixels.subarray(place * size, (place + 1) * size),
  }));
}

/** An image as RGBA. */
export function toImageData({ width, height, channels, pixels }) {
  const words = new Uint32Array(width * height);
  if (channels === 1) {
    for (let i = 0; i < words.length; i++) words[i] = 0xff000000 | (pixels[i] * 0x010101);
  } else {
    for (let i = 0, j = 0; i < words.length; i++, j += 3) {
      words[i] = 0xff000000 | (pixels[j + 2] << 16) | (pixels[j + 1] << 8) | pixels[j];
    }
  }
  return new ImageData(new Uint8ClampedArray(words.buffer), width, height);
}

/** Where an image and the base are lit, as RGBA. Null where they are not of one size. */
export function differenceData(image, base) {
  if (!base || image.width !== base.width || image.height !== base.height) return null;
  const colours = [NEITHER, IMAGE, BASE, BOTH].map(([r, g, b]) => 0xff000000 | (b << 16) | (g << 8) | r);
  const words = new Uint32Array(image.width * image.height);
  for (let i = 0; i < words.length; i++) words[i] = colours[isLit(image, i) + 2 * isLit(base, i)];
  return new ImageData(new Uint8ClampedArray(words.buffer), image.width, image.height);
}

function isLit({ channels, pixels }, i) {
  if (channels === 1) return pixels[i] > 0 ? 1 : 0;
  return pixels[3 * i] || pixels[3 * i + 1] || pixels[3 * i + 2] ? 1 : 0;
}

/** Draw RGBA on a canvas, which becomes as large as it is. */
export function paint(canvas, data) {
  if (canvas.width !== data.width || canvas.height !== data.height) {
    canvas.width = data.width;
    canvas.height = data.height;
  }
  canvas.getContext("2d").putImageData(data, 0, 0);
}
