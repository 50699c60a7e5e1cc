LABEL[stun]=STUN FILTER[stun]='port 3478' NEEDS[stun]='coturn stun-client'

stun_serve() {
    daemon "$1" turnserver -n --no-cli --no-tls --no-dtls --listening-ip "$(v4 "$1")" --listening-ip "$(v6 "$1")" \
        --relay-ip "$(v4 "$1")" --min-port 52000 --max-port 52999 --lt-cred-mech --realm example --user lab:secret \
        --pidfile "$WORK/turn-$1.pid" --userdb "$WORK/turn-$1.db" --log-file stdout --allow-loopback-peers
}

stun_session() {
    case $(between 1 6) in
    1 | 2) on "$1" turnutils_stunclient "$(v4 "$2")" ;;
    3) on "$1" stun "$(v4 "$2")" "$(between 1 9)" ;;
    4) on "$1" turnutils_uclient -u lab -w secret -n "$(between 1 20)" -l "$(between 50 1200)" -y -c "$(v4 "$2")" ;;
    5) on "$1" turnutils_uclient -t -u lab -w secret -n "$(between 1 20)" -l "$(between 50 1200)" -y -c "$(v4 "$2")" ;;
    6) on "$1" turnutils_uclient -u lab -w wrong -n 1 -y -c "$(v4 "$2")" ;;
    esac
}
