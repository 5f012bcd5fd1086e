
# Names of what is in the lab that runs.
_strait_names() {
    _strait "$@"
    local word=${COMP_WORDS[COMP_CWORD]} lab=() i
    [[ ${COMP_WORDS[1]} == lab && $COMP_CWORD -ge 3 && $word != -* ]] || return 0
    for ((i = 3; i + 1 < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == --name ]] && lab=(--name "${COMP_WORDS[i + 1]}")
    done
    case ${COMP_WORDS[2]} in
        api | clock | cni | cut | exec | flow | heal | kill | lose | probe | reboot | restart | slow | stop)
            mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -W "$(strait lab names "${lab[@]}" 2> /dev/null)" -- "$word")
            ;;
    esac
}
complete -F _strait_names -o nosort -o bashdefault -o default strait
