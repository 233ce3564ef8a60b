"""The completion scripts of shells. Each asks ``vfiohost __complete`` what can stand here."""

from __future__ import annotations

from typing import Final

BASH: Final = r"""# bash completion for vfiohost: eval "$(vfiohost completion bash)"
_vfiohost() {
    local line=${COMP_LINE:0:COMP_POINT} words current typed="" candidate
    # Not COMP_WORDS: bash breaks words at colons, which addresses have, and at equal signs. What is
    # inserted comes behind the last of these.
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current=${words[${#words[@]} - 1]}
    [[ $current == *[:=]* ]] && typed=${current%"${current##*[:=]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r candidate _; do
        case $candidate in
            :files) _vfiohost_paths -f "${current#--*=}" ;;
            :directories) _vfiohost_paths -d "${current#--*=}" ;;
            *) COMPREPLY+=("${candidate#"$typed"}") ;;
        esac
    done < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
    return 0
}
_vfiohost_paths() {
    compopt -o filenames 2>/dev/null
    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen "$1" -- "$2")
}
complete -F _vfiohost vfiohost
"""

ZSH: Final = r"""#compdef vfiohost
# zsh completion for vfiohost: eval "$(vfiohost completion zsh)", or a file _vfiohost in $fpath
_vfiohost() {
    local line word
    local -a found
    for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        case $line in
            '') ;;
            :files | :directories)
                # Behind `--option=` a path begins.
                [[ ${words[CURRENT]} == --*=* ]] && compset -P '*='
                if [[ $line == :files ]]; then _files; else _files -/; fi
                ;;
            *)
                word=${line%%$'\t'*}
                found+=("${word//:/\\:}:${line#*$'\t'}")
                ;;
        esac
    done
    (( ${#found} )) && _describe -V vfiohost found
}
if [[ ${funcstack[1]} == _vfiohost ]]; then
    _vfiohost "$@"
else
    compdef _vfiohost vfiohost
fi
"""

FISH: Final = r"""# fish completion for vfiohost: vfiohost completion fish | source
function __vfiohost_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l option (string match -r -- '^--[^=]*=' (commandline -ct))
    set -l path (string replace -r -- '^--[^=]*=' '' (commandline -ct))
    for line in ($words[1] __complete $words[2..-1] 2>/dev/null)
        switch $line
            case ':files'
                printf "$option%s\\n" (__fish_complete_path $path)
            case ':directories'
                printf "$option%s\\n" (__fish_complete_directories $path)
            case '*'
                printf '%s\\n' $line
        end
    end
end
complete -c vfiohost -f -a '(__vfiohost_complete)'
"""

SCRIPTS: Final = {"bash": BASH, "zsh": ZSH, "fish": FISH}
"""By the name of the shell."""
