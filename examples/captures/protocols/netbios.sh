LABEL[netbios]=NetBIOS FILTER[netbios]='udp port 137 or udp port 138' NEEDS[netbios]='samba smbclient samba-common-bin'

# samba_conf HOST [LINE...]: an smb.conf with directories of its own; dcerpc.sh uses it too. Prints its path.
samba_conf() {
    local host=$1 dir
    shift
    dir=$(mktemp -d "$WORK/samba-$host-XXXX")
    {
        printf '[global]\nnetbios name = %s\nworkgroup = LAB\nbind interfaces only = no\n' "${host^^}"
        printf '%s = %s\n' 'private dir' "$dir" 'lock directory' "$dir" 'state directory' "$dir" 'cache directory' "$dir" \
            'pid directory' "$dir" 'ncalrpc dir' "$dir/ncalrpc" 'log file' "$dir/log"
        printf '%s\n' "$@" '[public]' "path = $WORK/files" 'guest ok = yes'
    } >"$dir/smb.conf"
    echo "$dir/smb.conf"
}

netbios_serve() {
    daemon "$1" nmbd -F --no-process-group -s "$(samba_conf "$1" 'local master = yes' 'preferred master = yes')"
}

netbios_session() {
    local conf
    conf=$(samba_conf "pc-$1-$((RANDOM % 1000))" 'local master = no')
    case $(between 1 5) in
    1) on "$1" nmblookup -s "$conf" -B 10.77.255.255 "$(one_of "$2" LAB NOBODY)" ;;
    2) on "$1" nmblookup -s "$conf" -U "$(v4 "$2")" "$(one_of "$2" LAB "NOBODY$RANDOM")" ;;
    3) on "$1" nmblookup -s "$conf" -A "$(v4 "$2")" ;;
    4) on "$1" nmblookup -s "$conf" -M -- - ;;
    5) # a computer that comes, claims its names, and goes
        on "$1" timeout "$(between 4 9)" sh -c 'mount -t tmpfs tmpfs /run; mkdir /run/samba; exec nmbd -F --no-process-group -s "$0"' "$conf" ;;
    esac
}
