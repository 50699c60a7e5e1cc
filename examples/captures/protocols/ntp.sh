# No class of the shipped model: traffic that it has never seen.
LABEL[ntp]=NTP FILTER[ntp]='udp port 123' NEEDS[ntp]='chrony ntpsec-ntpdig'

# -x: the clock of the machine is never touched, by the server nor by a client.
ntp_serve() {
    printf 'local stratum 8\nallow all\ncmdport 0\nbindcmdaddress /\npidfile %s\n' "$WORK/chrony-$1.pid" >"$WORK/chrony-$1.conf"
    daemon "$1" chronyd -x -d -u root -f "$WORK/chrony-$1.conf"
}

ntp_session() {
    case $(between 1 3) in
    1) on "$1" ntpdig "-$(family)" "$2.example" ;;
    2) on "$1" ntpdig --samples "$(between 2 4)" "$2.example" ;;
    3) on "$1" chronyd -x -Q -t 8 "pidfile $WORK/$1.chrony" "bindcmdaddress /" "cmdport 0" "server $(address "$2") iburst" ;;
    esac
}
