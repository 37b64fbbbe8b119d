// Search of images by words, in a page or in Node: transformers.js embeds, the images' vectors are stored.
import {
  AutoProcessor, AutoTokenizer, CLIPTextModelWithProjection, CLIPVisionModelWithProjection, env,
} from '@huggingface/transformers';

// The model lies beside the page; nothing is asked of the Hub.
env.allowRemoteModels = false;
env.allowLocalModels = true;
const OPTIONS = { dtype: 'fp32' };

/** A function from texts to embeddings, L2-normalised, one Float32Array each. `folder` ends with a slash. */
export async function loadTextEncoder(folder) {
  env.localModelPath = folder;
  const tokenizer = await AutoTokenizer.from_pretrained('model');
  const model = await CLIPTextModelWithProjection.from_pretrained('model', OPTIONS);
  return async (texts) => rows((await model(tokenizer(texts, { padding: true, truncation: true }))).text_embeds);
}

/** The same from images (`RawImage`): the page does not need it, as its images are embedded already. */
export async function loadImageEncoder(folder) {
  env.localModelPath = folder;
  const processor = await AutoProcessor.from_pretrained('model');
  const model = await CLIPVisionModelWithProjection.from_pretrained('model', OPTIONS);
  return async (images) => rows((await model(await processor(images))).image_embeds);
}

/** The `k` best of `vectors` (a Float32Array, row after row) for one query: [{ row, score }], best first. */
export function nearest(vectors, query, k) {
  const found = [];
  for (let row = 0; row < vectors.length / query.length; row++) {
    let score = 0;
    for (let i = 0; i < query.length; i++) score += vectors[row * query.length + i] * query[i];
    found.push({ row, score });
  }
  return found.sort((a, b) => b.score - a.score).slice(0, k);
}

function rows(tensor) {
  const [count, width] = tensor.dims;
  return Array.from({ length: count }, (_, row) => tensor.data.slice(row * width, (row + 1) * width));
}
