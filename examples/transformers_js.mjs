// Run a bundle's portable graph in transformers.js.
//
//   npm install @huggingface/transformers
//   node transformers_js.mjs BUNDLE DTYPE TITLE...
//
// DTYPE is fp32, fp16 or q8 (int8). Prints each title's vector as a line of JSON.
import { readFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { env, pipeline } from "@huggingface/transformers";

const [bundle, dtype, ...titles] = process.argv.slice(2);
const { model } = JSON.parse(readFileSync(join(bundle, "manifest.json"), "utf8"));
env.allowRemoteModels = false;
env.localModelPath = dirname(resolve(bundle));
// What int8 needs on x86 CPUs without VNNI; see node.mjs.
const session_options = dtype === "q8" ? { extra: { session: { x64quantprecision: "1" } } } : {};
const extract = await pipeline("feature-extraction", basename(resolve(bundle)), { dtype, session_options });
// The library cuts the closing token off a title that is too long; every other tokenizer keeps it.
const { tokenizer } = extract;
const closing = BigInt(tokenizer.encode("").at(-1));
extract.tokenizer = (...given) => {
  const rows = tokenizer(...given);
  const longest = rows.input_ids.dims[1];
  for (let end = longest - 1; end < rows.input_ids.data.length; end += longest) {
    if (rows.attention_mask.data[end] === 1n) rows.input_ids.data[end] = closing;
  }
  return rows;
};
const vectors = await extract(titles, { pooling: model.pooling, normalize: model.normalize });
vectors.tolist().forEach((vector, i) => console.log(JSON.stringify({ text: titles[i], vector })));
