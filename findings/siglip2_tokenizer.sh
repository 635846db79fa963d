#!/usr/bin/env bash
# Beside a config.json of model_type siglip2, the AutoTokenizer of transformers 5.23 ignores the tokenizer_class of tokenizer_config.json
# and builds Siglip2Tokenizer from any tokenizer.json: of a unigram tokenizer it takes the pieces as byte pairs without merges, so
# that every text becomes single letters, in silence. PreTrainedTokenizerFast reads the same files as they are. Exits with 0 as
# long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet transformers==5.23.0 tokenizers==0.23.3
mkdir model
cat > model/config.json <<'JSON'
{"model_type": "siglip2"}
JSON
cat > model/tokenizer_config.json <<'JSON'
{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
JSON
venv/bin/python - <<'PYTHON'
import tokenizers
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("▁photo", -1.0), ("▁cat", -1.0)]
pieces += [(letter, -5.0) for letter in "▁achopt"]
made = Tokenizer(models.Unigram(pieces, unk_id=2))
made.pre_tokenizer = pre_tokenizers.Metaspace()
made.save("model/tokenizer.json")

print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)
expected = ["▁a", "▁photo", "▁cat"]
as_files_say, automatic = transformers.PreTrainedTokenizerFast, transformers.AutoTokenizer
for kind, is_right in ((as_files_say, True), (automatic, False)):
    found = kind.from_pretrained("model")
    seen = found.convert_ids_to_tokens(found("a photo cat", add_special_tokens=False)["input_ids"])
    print(f"{type(found).__name__}: {seen}")
    assert (seen == expected) == is_right
PYTHON
