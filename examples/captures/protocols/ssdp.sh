LABEL[ssdp]=SSDP FILTER[ssdp]='udp port 1900' NEEDS[ssdp]='minidlna miniupnpc gssdp-tools'

ssdp_serve() {
    cat >"$WORK/minidlna-$1.conf" <<CONF
network_interface=eth0
port=8200
media_dir=$WORK/files
friendly_name=Media of $1
db_dir=$WORK/minidlna-$1
log_dir=$WORK/minidlna-$1
inotify=no
notify_interval=20
CONF
    mkdir -p "$WORK/minidlna-$1"
    daemon "$1" minidlnad -d -f "$WORK/minidlna-$1.conf" -P "$WORK/minidlna-$1.pid"
}

ssdp_session() {
    case $(between 1 3) in
    1) on "$1" upnpc -l ;;
    2) on "$1" upnpc -s ;;
    3) # a media server that comes and goes: announcements and farewells
        ssdp_visitor "$1" ;;
    esac
}

ssdp_visitor() {
    local dir
    dir=$(mktemp -d "$WORK/visitor-XXXX")
    printf 'network_interface=eth0\nport=8201\nmedia_dir=%s\ndb_dir=%s\nlog_dir=%s\ninotify=no\n' "$WORK/files" "$dir" "$dir" >"$dir/conf"
    on "$1" timeout "$(between 3 8)" sh -c 'mount -t tmpfs tmpfs /run; mkdir /run/minidlna; exec minidlnad -d -f "$0/conf" -P "$0/pid"' "$dir"
}
