LABEL[smtp]=SMTP FILTER[smtp]='tcp port 25 or tcp port 587' NEEDS[smtp]='exim4-daemon-light swaks msmtp curl libio-socket-ssl-perl'

# Takes mail for anybody and drops it.
smtp_serve() {
    local dir=$WORK/exim-$1
    mkdir -p "$dir"
    install -m 640 -g Debian-exim "$WORK/cert/rsa.key" "$dir/key"
    chown Debian-exim "$dir"
    cat >"$dir/conf" <<CONF
primary_hostname = mail.$1.example
spool_directory = $dir
log_file_path = $dir/%slog
pid_file_path = $dir/pid
daemon_smtp_ports = 25 : 587
tls_advertise_hosts = *
tls_certificate = $WORK/cert/rsa.pem
tls_privatekey = $dir/key
host_lookup =
rfc1413_query_timeout = 0s
acl_smtp_rcpt = accept
acl_smtp_data = accept
begin routers
drop:
  driver = redirect
  data = :blackhole:
CONF
    daemon "$1" exim4 -C "$dir/conf" -bdf -q30m
}

smtp_session() {
    local to server
    server=$(v4 "$2") # swaks wants a module more for IPv6; the other clients take both
    to=$(one_of a@example b@example a@example,b@example,c@example)
    case $(between 1 6) in
    1 | 2) on "$1" swaks --server "$server" --to "$to" --from me@lab.example --hide-all \
        "$(one_of --pipeline --suppress-data --no-info-hints)" --body "@$(blob)" ;;
    3) on "$1" swaks --server "$server" --port 587 --to "$to" --from me@lab.example --hide-all --tls --attach "@$(blob)" ;;
    4) { printf 'From: me@lab.example\r\nTo: %s\r\nSubject: %s\r\n\r\n' "$to" "$RANDOM"; base64 "$(blob)"; } >"$WORK/$1.mail"
        on "$1" curl -sS "-$(family)" "smtp://$2.example" --mail-from me@lab.example --mail-rcpt a@example -T "$WORK/$1.mail" ;;
    5) printf 'Subject: note\n\n%s\n' "$(head -c "$(between 20 3000)" "$WORK/files/3000.txt")" |
        on "$1" msmtp --host="$(name "$2")" --from=me@lab.example --timeout=10 ${to//,/ } ;;
    6) on "$1" swaks --server "$server" --quit-after "$(one_of BANNER HELO MAIL RCPT)" --to "$to" --hide-all ;;
    esac
}
