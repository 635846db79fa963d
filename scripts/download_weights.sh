#!/usr/bin/env bash
# Fetch published weights into weights/: resumed, verified, and installed only when whole.
#
#   scripts/download_weights.sh [--dir DIR] [--format npz|h5] [--manifest FILE] NAME...
#
#   NAME             a name in weights/manifest.json: BiT-M-R50x1, vtab/BiT-M-R50x1-run0-caltech101, ViT-B/16 (which
#                    lands in ViT-B_16.npz), or one that a pattern there describes: augreg/B_16-i21k-...
#   --dir DIR        where the files land (default: the weights folder of this checkout)
#   --format FORMAT  npz (default), or h5, which was published for BiT-S-* and BiT-M-* only
#   --manifest FILE  another list of names and addresses
#
# A file is checked against the size and SHA-256 in the manifest where it states them, and against the size and md5 that
# the server sends. Where the manifest states no SHA-256, that of the first download is kept in DIR/downloads.lock
# (`sha256sum --check` reads it), and another file under the same name is refused from then on. An interrupted download
# stays as NAME.npz.part, which the same command resumes.
# Exit status: 0, or 2 when a name could not be fetched (the others still are).

set -euo pipefail
export LC_ALL=C  # wget's reasons in English
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() { echo "error: $*" >&2; exit 2; }
shown() { echo "${1#"$PWD"/}"; }
human() { if (($1 >= 1000000)); then echo "$(($1 / 1000000)) MB"; else echo "$1 bytes"; fi; }
bytes_of() { stat --format=%s "$1"; }
digest() { "$1sum" <"$2" | cut -d ' ' -f 1; }

lookup() {  # NAME -> "url bytes sha256 file", with `-` for what the manifest does not state
  python3 -B - "$root" "$manifest" "$format" "$1" <<'PYTHON'
import json, re, sys
root, manifest, suffix, name = sys.argv[1:]
sys.path.insert(0, root)
from common.errors import nearest
try:
    with open(manifest, encoding="utf-8") as file:
        found = json.load(file)
    rows = {row["name"]: row for row in found["models"]}
    for pattern in found.get("patterns", []):
        match = re.fullmatch(pattern["regex"], name)
        if match:
            rows.setdefault(name, {"url": pattern["url"].format(file=match["file"])})
except (OSError, ValueError, KeyError, TypeError) as error:
    sys.exit(f"error: {manifest} is no readable manifest ({error}); restore it from the repository.")
if name not in rows:
    sys.exit(f"error: No model is called {name!r}{nearest(name, rows)} The names stand in {manifest}.")
url, size, sha256 = (rows[name].get(key) or "-" for key in ("url", "bytes", "sha256"))
if suffix == "h5" and url != "-":
    if not re.fullmatch(r"BiT-[SM]-R\d+x\d(-ILSVRC2012)?", name):
        sys.exit(f"error: {name} was published as .npz only; fetch it without --format h5.")
    url, size, sha256 = url[: -len("npz")] + "h5", "-", "-"  # the manifest describes the .npz
print(url, size, sha256, re.sub(r"/(?=[0-9])", "_", name))  # as PublishedModel.file has it
PYTHON
}

recorded() {  # FILE -> the SHA-256 of its first download, or nothing
  local sha256 entry
  [[ -f $lock ]] || return 0
  while read -r sha256 entry; do
    if [[ $entry == "$1" ]]; then echo "$sha256"; break; fi
  done <"$lock"
}

reason() {  # wget's last line, without the time and the full stop
  sed -n -e 's/^20[-0-9]* [:0-9]* //' -e 's/\.$//' -e '/./p' "$log" | tail -n 1 | grep . || echo "connection lost"
}

ask_server() {  # sets `offered` and `md5` (hexadecimal): what the server says of $url, empty where it says nothing
  local answer status=0
  command -v wget >/dev/null ||
    fail "wget is not installed; run \`apt-get install wget\`, or fetch $url by hand and save it as $(shown "$file")."
  wget --spider --server-response --no-verbose --timeout=60 --output-file="$log" -- "$url" || status=$?
  # Redirections answer first; only the headers of the last answer describe the file.
  # shellcheck disable=SC2016
  answer=$(tr -d '\r' <"$log" | sed -n -e '/^  HTTP\//{h;d}' -e '/^  /H' -e '${g;p}')
  if ((status == 8)); then
    answer=$(sed -n '1s/^ *HTTP[^ ]* //p' <<<"$answer")
    fail "$url answered '$answer', expected $label; nothing was installed: check the address, or try again later."
  elif ((status != 0)); then
    fail "$url could not be reached ($(reason)); check the connection and run the same command again."
  fi
  offered=$(sed -n 's/^ *content-length: *//Ip' <<<"$answer")
  md5=$(sed -n 's/^ *x-goog-hash:.*md5=\([A-Za-z0-9+/]\{22\}==\).*/\1/Ip' <<<"$answer" |
    base64 -d | od -An -tx1 | tr -d ' \n')
  if [[ -n $size && -n $offered && $size != "$offered" ]]; then
    fail "$url is $offered bytes long where $(shown "$manifest") states $size; nothing was fetched: update the project."
  fi
  size=${size:-$offered}
}

problem_of() {  # FILE -> what is wrong with it, or nothing
  local found
  found=$(bytes_of "$1")
  if [[ -n $size && $found != "$size" ]]; then echo "is $found bytes long, expected $size"; return; fi
  found=$([[ -z $md5 ]] || digest md5 "$1")
  if [[ $found != "$md5" ]]; then echo "has md5 $found, but the server sent $md5"; return; fi
  found=$([[ -z $sha256 ]] || digest sha256 "$1")
  if [[ $found != "$sha256" ]]; then echo "has SHA-256 $found, but $sha256_source holds $sha256"; return; fi
  found=$(od -An -tx1 -N4 "$1" | tr -d ' ')  # an error page, say, is neither
  case $format:$found in
    npz:504b0304 | h5:89484446) ;;
    *) echo "starts with the bytes ${found:-of no file}, so it is no .$format file"; return ;;
  esac
  if [[ $format == npz && -z $md5$sha256 ]]; then  # no digest is known, but a zip holds a CRC-32 of each member
    python3 -c 'import sys, zipfile; sys.exit(zipfile.ZipFile(sys.argv[1]).testzip() is not None)' "$1" 2>/dev/null ||
      echo "is a damaged zip"
  fi
}

evidence() {  # what problem_of compared with
  local sent="${offered:+size}${md5:+${offered:+ and }md5}" checked=()
  if [[ -n $sent ]]; then checked+=("$sent sent by the server"); fi
  if [[ -n $sha256 ]]; then checked+=("SHA-256 in $sha256_source"); fi
  if [[ $format == npz && -z $md5$sha256 ]]; then checked+=("CRC-32 of each array (no digest is known)"); fi
  if ((${#checked[@]} == 0)); then checked=("nothing but the signature of the format"); fi
  printf 'verified %s' "${checked[0]}"
  if ((${#checked[@]} > 1)); then printf ', %s' "${checked[@]:1}"; fi
}

record() {  # FILE: keep its SHA-256 where none is known yet
  [[ -z $sha256 ]] || return 0
  echo "$(digest sha256 "$1")  $label" >>"$lock"
  echo ", SHA-256 recorded in $(shown "$lock")"
}

check_installed() {
  local problem
  if [[ -z $sha256 ]]; then ask_server; fi
  problem=$(problem_of "$file")
  if [[ -n $problem ]]; then
    fail "$(shown "$file") $problem; it was left alone: move it away and run the same command again."
  fi
  echo "$label: already there, $(evidence)$(record "$file")"
}

lock_part() {  # wait for another download of the same file, which may rename or remove $part at its end
  while :; do
    exec 9>>"$part"
    if command -v flock >/dev/null; then flock 9; fi
    if [[ $part -ef /dev/fd/9 ]]; then break; fi
  done
  trap '[[ -s $part ]] || rm -f "$part"' EXIT
}

transfer() {  # wget into $part, from where it ends
  local have progress=() status=0
  have=$(bytes_of "$part")
  if ((have > 0)) && [[ -n $size ]] && ((have > size)); then
    echo "$label: dropped a partial file of $have bytes, longer than the $size of the file"
    have=0
  elif ((have > 0)) && [[ $format != npz && -z $md5$sha256 ]]; then
    echo "$label: dropped a partial file, since no digest is known that would tell whether it is of the same version"
    have=0
  fi
  if ((have == 0)); then : >"$part"; fi
  if [[ $have == "$size" ]]; then return; fi
  echo "$label: fetching ${size:+$(human "$size") }from $url$( ((have == 0)) || echo ", resumed at $(human "$have")")"
  if [[ -t 2 ]]; then progress=(--show-progress --progress=bar:force:noscroll); fi
  wget --continue --no-verbose --timeout=60 "${progress[@]}" --output-file="$log" --output-document="$part" -- "$url" ||
    status=$?
  if ((status != 0)); then
    have=$(human "$(bytes_of "$part")")
    fail "$label stopped at $have ($(reason)); the same command resumes it from $(shown "$part")."
  fi
}

fetch() {  # NAME
  local row url size sha256 stem sha256_source file label problem outcome offered="" md5=""
  row=$(lookup "$1")
  read -r url size sha256 stem <<<"$row"
  if [[ $url == - ]]; then echo "$1: ships with the project, nothing to fetch"; return; fi
  label=$stem.$format file=$dir/$stem.$format
  part=$file.part  # global: the trap on EXIT reads it
  size=${size#-} sha256=${sha256#-} sha256_source=$(shown "$manifest")
  if [[ -z $sha256 ]]; then sha256=$(recorded "$label") sha256_source=$(shown "$lock"); fi
  if [[ -e $file ]]; then check_installed; return; fi

  ask_server
  mkdir -p "$(dirname "$file")"
  lock_part
  if [[ -e $file ]]; then sha256=${sha256:-$(recorded "$label")}; check_installed; return; fi
  transfer
  problem=$(problem_of "$part")
  if [[ -n $problem ]]; then
    rm -f "$part"
    fail "$label from $url $problem; it was removed and nothing was installed: run the same command again$(
      [[ $problem != *"$(shown "$lock")"* ]] || echo ", or delete its line there if the publisher replaced the file")."
  fi
  sync "$part"
  outcome="$(human "$(bytes_of "$part")"), $(evidence)$(record "$part")"
  mv "$part" "$file"
  sync "$(dirname "$file")"
  echo "$label: $outcome"
}

dir=$root/weights manifest=$root/weights/manifest.json format=npz names=()
while (($#)); do
  case $1 in
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    --dir | --format | --manifest)
      (($# > 1)) || fail "$1 needs a value; see --help."
      declare "${1#--}=$2"
      shift ;;
    -*) fail "There is no option $1; see --help." ;;
    *) names+=("$1") ;;
  esac
  shift
done
[[ $format == npz || $format == h5 ]] || fail "There is no --format $format; the files were published as npz and h5."
((${#names[@]})) || fail "No model was named; run \`$0 NAME...\` with names from $(shown "$manifest")."
command -v python3 >/dev/null || fail "python3 is not installed, and reads the manifest; run \`apt-get install python3\`."

dir=${dir%/} lock=${dir%/}/downloads.lock log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
for name in "${names[@]}"; do
  set +e  # a subshell tested by `if` or `||` would go on after an error inside
  (set -e; fetch "$name")
  # shellcheck disable=SC2181
  (($? == 0)) || status=2
  set -e
done
exit "$status"
