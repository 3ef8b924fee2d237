// The networks of the page, and what a drawing becomes before they see it. gmlvm_book/touch.py writes the data.
"use strict";

const touchNetwork = (() => {
  // Fifteen bits a character: gmlvm_book/compact.py.
  function unpacked(text, length) {
    const bytes = new Uint8Array(length);
    for (let held = 0, bits = 0, i = 0, at = 0; at < length; i++) {
      held = (held << 15) | (text.charCodeAt(i) - 0x3000);
      for (bits += 15; bits >= 8 && at < length; at++) bytes[at] = (held >> (bits -= 8)) & 255;
      held &= (1 << bits) - 1;
    }
    return bytes;
  }

  async function inflated(bytes) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  // Linear layer, its weights stored input by input: {inputs, weight, bias}.
  function readLayer(take, inputs, outputs) {
    const factor = new Float32Array(take(4 * outputs)), bias = new Float32Array(take(4 * outputs));
    const count = inputs * outputs, planes = new Uint8Array(take(2 * count)), weight = new Float32Array(count);
    for (let n = 0; n < count; n++) {
      const u = planes[n] | (planes[count + n] << 8);
      weight[n] = ((u >>> 1) ^ -(u & 1)) * factor[n % outputs];
    }
    return { inputs, weight, bias };
  }

  // The models as {name, encoder, decoder, loc, axes, ...}, and the test images, from touchData.
  async function read(data) {
    const bytes = await inflated(unpacked(data.text, data.bytes));
    let at = 0;
    const take = length => bytes.slice(at, (at += length)).buffer;
    const networks = data.networks.map(sizes => sizes.slice(1).map((outputs, i) => readLayer(take, sizes[i], outputs)));
    const models = data.models.map(model => {
      const decoder = networks[model.decoder], dim = decoder[0].inputs, components = model.digits.length;
      const loc = new Float32Array(take(4 * components * dim));
      const axes = new Float32Array(take(4 * components * dim * dim));
      return { ...model, encoder: networks[model.encoder], decoder, loc, axes, dim, components };
    });
    const images = data.digits.map(() => Float32Array.from(new Uint8Array(take(784)), value => value / 255));
    return { models, images };
  }

  function run(layers, x) {
    layers.forEach(({ inputs, weight, bias }, l) => {
      const y = Float64Array.from(bias), outputs = y.length;
      for (let j = 0; j < inputs; j++) {
        const value = x[j];
        if (value !== 0) for (let i = 0, n = j * outputs; i < outputs; i++, n++) y[i] += value * weight[n];
      }
      x = l < layers.length - 1 ? y.map(value => Math.max(value, 0)) : y;
    });
    return x;
  }

  // q_D(k|x) of an image.
  function probabilities(model, image) {
    const logits = run(model.encoder, image), most = Math.max(...logits);
    const weights = logits.map(value => Math.exp(value - most)), total = weights.reduce((a, b) => a + b);
    return weights.map(value => value / total);
  }

  // The decoder's mean for a code.
  const decode = (model, z) => run(model.decoder, z).map(value => 1 / (1 + Math.exp(-value)));

  // The code of component k that lies so many standard deviations from its mean along each of its first directions.
  function code(model, k, steps) {
    const { dim, loc, axes } = model, z = new Float64Array(dim);
    for (let d = 0; d < dim; d++) {
      z[d] = loc[k * dim + d];
      steps.forEach((step, i) => (z[d] += step * axes[(k * dim + i) * dim + d]));
    }
    return z;
  }

  function normal() {
    return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  }

  // A code from the Gaussian of component k.
  const draw = (model, k) => code(model, k, Array.from({ length: model.dim }, normal));

  // Where MNIST's digits have their centre of mass: in the middle of the pixel of row and column 14.
  const CENTRE = 14.5;
  // Half the width of a stroke that is fully on, and of one with its soft edge, in pixels of 28.
  const CORE = 1, EDGE = 2;

  function distance(x, y, [ax, ay], [bx, by]) {
    const dx = bx - ax, dy = by - ay, length = dx * dx + dy * dy;
    const t = length ? Math.min(1, Math.max(0, ((x - ax) * dx + (y - ay) * dy) / length)) : 0;
    return Math.hypot(x - ax - t * dx, y - ay - t * dy);
  }

  // Strokes in pixels of 28, drawn softly.
  function inked(strokes) {
    const image = new Float32Array(784);
    for (const stroke of strokes)
      stroke.forEach((end, i) => {
        const start = stroke[Math.max(0, i - 1)];
        const from = d => Math.max(0, Math.floor(Math.min(start[d], end[d]) - EDGE));
        const to = d => Math.min(27, Math.ceil(Math.max(start[d], end[d]) + EDGE));
        for (let row = from(1); row <= to(1); row++)
          for (let column = from(0); column <= to(0); column++) {
            const far = distance(column + 0.5, row + 0.5, start, end), n = row * 28 + column;
            image[n] = Math.max(image[n], Math.min(1, Math.max(0, (EDGE - far) / (EDGE - CORE))));
          }
      });
    return image;
  }

  // As MNIST was made: the drawing fills a box of 20 x 20, and is put where its centre of mass is theirs. Strokes are
  // lists of [x, y] in [0, 1]; a mere dot is not blown up.
  function normalised(strokes) {
    const points = strokes.flat();
    if (!points.length) return new Float32Array(784);
    const low = [0, 1].map(d => Math.min(...points.map(point => point[d])));
    const high = [0, 1].map(d => Math.max(...points.map(point => point[d])));
    const scale = (20 - 2 * EDGE) / Math.max(high[0] - low[0], high[1] - low[1], 0.1);
    const placed = centre =>
      strokes.map(stroke => stroke.map(point => point.map((value, d) => (value - centre[d]) * scale + CENTRE)));
    const middle = [0, 1].map(d => (low[d] + high[d]) / 2), first = inked(placed(middle));
    let mass = 0, x = 0, y = 0;
    first.forEach((value, n) => {
      mass += value;
      x += value * ((n % 28) + 0.5);
      y += value * (Math.floor(n / 28) + 0.5);
    });
    return inked(placed([middle[0] + (x / mass - CENTRE) / scale, middle[1] + (y / mass - CENTRE) / scale]));
  }

  return { read, probabilities, decode, code, draw, normalised };
})();
