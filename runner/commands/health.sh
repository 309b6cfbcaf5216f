#!/bin/sh
# runner-health: is the daemon well? The container's health check, every 15 seconds: so it is this
# script and not `runner health`, whose imports alone cost more than the daemon does. It says the same.
# Ages are told by the machine's uptime: the time of day may jump.
private="${RUNNER_OUTPUTS_DIR:-outputs}/.runner"

not_well() {
    echo "not well: $1"
    exit 1
}

ago() { # seconds as people say them: 42 s, 19 min, 2 h 05 min
    minutes=$((($1 + 30) / 60))
    if [ "$1" -lt 90 ]; then
        said="$1 s"
    elif [ "$minutes" -lt 90 ]; then
        said="$minutes min"
    else
        said="$(printf '%d h %02d min' $((minutes / 60)) $((minutes % 60)))"
    fi
}

[ -e "$private/heartbeat.json" ] || not_well "there is no heartbeat: no daemon has run here yet"
beat='' boot='' unwell=''
while read -r line; do
    line=${line%,}
    case $line in
        '"uptime": '*) beat=${line#*: } beat=${beat%%.*} ;;
        '"boot": '*) boot=${line#*: } ;;
        '"unwell": null') ;;
        '"unwell": '*) unwell=${line#*: } ;;
    esac
done 2> /dev/null < "$private/heartbeat.json" || not_well "the heartbeat cannot be read"
case $beat in '' | *[!0-9]*) not_well "the heartbeat cannot be read" ;; esac
read -r up _ < /proc/uptime
read -r this_boot < /proc/sys/kernel/random/boot_id
[ "$boot" = "\"$this_boot\"" ] || not_well "the last heartbeat is from before this machine started"
age=$((${up%%.*} - beat))
ago "$age"
[ "$age" -le 35 ] || not_well "the last heartbeat is $said old"
[ -z "$unwell" ] || not_well "$unwell"
echo "well: the last heartbeat is $said old"
