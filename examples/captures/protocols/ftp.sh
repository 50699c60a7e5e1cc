LABEL[ftp]=FTP_CONTROL FILTER[ftp]='tcp port 21' NEEDS[ftp]='vsftpd lftp curl'

ftp_serve() {
    local root=$WORK/ftp-$1
    mkdir -p "$root/pub" "$root/incoming"
    cp "$WORK"/files/* "$root/pub"
    chown ftp "$root/incoming"
    cat >"$WORK/vsftpd-$1.conf" <<CONF
listen_ipv6=YES
background=NO
anonymous_enable=YES
no_anon_password=NO
anon_root=$root
anon_upload_enable=YES
anon_mkdir_write_enable=YES
write_enable=YES
anon_umask=022
pasv_min_port=50000
pasv_max_port=50999
secure_chroot_dir=/run/vsftpd/empty
seccomp_sandbox=NO
ftpd_banner=Welcome to the FTP service of $1.example. All transfers are logged.
CONF
    daemon "$1" vsftpd "$WORK/vsftpd-$1.conf"
}

ftp_session() {
    local file url
    file=$(basename "$(blob)")
    url=ftp://$2.example
    case $(between 1 5) in
    1) on "$1" curl -sS -o /dev/null "-$(family)" "$url/pub/$file" ;;
    2) on "$1" curl -sS "-$(family)" "$url/pub/" ;;
    3) on "$1" curl -sS -T "$(blob)" "$url/incoming/up-$RANDOM" ;;
    4) # somebody who looks around
        on "$1" lftp -c "set net:max-retries 1; open $(name "$2"); cd pub; ls; $(for _ in $(seq "$(between 1 6)"); do
            one_of "cat $file > /dev/null;" 'cls;' 'ls;' 'cd ../incoming; cd ../pub;' 'cat no-such-file;' "!sleep 0.$RANDOM;"
        done)" ;;
    5) on "$1" lftp -c "set ftp:passive-mode off; open $(name "$2"); mkdir incoming/d$RANDOM; ls incoming" ;;
    esac
}
