"""Run the small bundle's int8 graph with plain ONNX Runtime: ten lines that fit any bundle with CLS or mean pooling.

python examples/ten_lines.py BUNDLE
"""

import sys

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(f"{sys.argv[1]}/tokenizer.json")
tokenizer.enable_truncation(128)  # manifest.json, model, max_tokens
tokenizer.enable_padding(pad_id=1)  # pad_id
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.x64quantprecision", "1")  # for x86 CPUs without VNNI; slower on others
session = onnxruntime.InferenceSession(f"{sys.argv[1]}/engine/int8-cpu.onnx", options)
rows = tokenizer.encode_batch(["nurse", "Krankenschwester", "data engineer"])
inputs = {"input_ids": [row.ids for row in rows], "attention_mask": [row.attention_mask for row in rows]}
(vectors,) = session.run(["sentence_embedding"], {name: np.array(ids, np.int64) for name, ids in inputs.items()})
print((vectors @ vectors.T).round(3))
