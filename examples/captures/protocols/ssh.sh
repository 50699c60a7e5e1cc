LABEL[ssh]=SSH FILTER[ssh]='tcp port 22' NEEDS[ssh]='openssh-server openssh-client'

ssh_serve() {
    local dir=$WORK/ssh
    mkdir -p "$dir"
    chmod 700 "$dir"
    if [ ! -e "$dir/id" ]; then
        ssh-keygen -qt ed25519 -N '' -C lab -f "$dir/id"
        ssh-keygen -qt ed25519 -N '' -C lab -f "$dir/host_ed25519"
        ssh-keygen -qt rsa -b 2048 -N '' -C lab -f "$dir/host_rsa"
    fi
    # Root's own key files are not touched; the key lives as long as the recording.
    cat >"$dir/sshd-$1.conf" <<CONF
HostKey $dir/host_ed25519
HostKey $dir/host_rsa
AuthorizedKeysFile $dir/id.pub
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
CONF
    daemon "$1" /usr/sbin/sshd -D -e -f "$dir/sshd-$1.conf"
}

ssh_session() {
    local to="root@$2.example" options=(-F /dev/null -i "$WORK/ssh/id" -o StrictHostKeyChecking=no
        -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes)
    options+=(-o "HostKeyAlgorithms=$(one_of ssh-ed25519 rsa-sha2-512)" -o "Ciphers=$(one_of aes128-ctr \
        chacha20-poly1305@openssh.com aes256-gcm@openssh.com)" "-o AddressFamily=$(one_of inet inet inet6)")
    case $(between 1 8) in
    1) on "$1" ssh "${options[@]}" "$to" "$(one_of true 'echo hello' 'seq 400' 'head -c 20000 /dev/zero | od')" ;;
    2 | 3) # somebody at a terminal: keystrokes echo one by one, answers come in screens
        (for _ in $(seq "$(between 2 5)"); do
            think 200 900
            one_of 'echo one' 'seq 1 50' 'date' 'seq 1 500 | tail -3' | while read -rn1 key; do
                printf %s "${key:- }"
                think 20 120
            done
            echo
        done; echo exit) | on "$1" ssh "${options[@]}" -tt "$to" "PS1='lab\$ ' PATH=/usr/bin:/bin sh -i" ;;
    4) on "$1" scp "${options[@]}" "$(blob)" "$to:$WORK/ssh/in-$RANDOM" ;;
    5) on "$1" scp "${options[@]}" "$to:$(blob)" /dev/null ;;
    6) printf 'cd %s\nls -l\nget %s /dev/null\nls\n' "$WORK/files" "$(blob)" | on "$1" sftp "${options[@]}" "$to" ;;
    7) on "$1" ssh "${options[@]}" -i /nonexistent -o IdentityFile=none nobody@"$2.example" true ;; # refused
    8) on "$1" ssh-keyscan -T 3 "$2.example" ;;
    esac
}
