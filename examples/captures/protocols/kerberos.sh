LABEL[kerberos]=Kerberos FILTER[kerberos]='port 88' NEEDS[kerberos]='krb5-kdc krb5-admin-server krb5-user'

kerberos_serve() {
    local dir=$WORK/krb-$1 limit
    mkdir -p "$dir"
    cat >"$dir/kdc.conf" <<CONF
[kdcdefaults]
    kdc_ports = 88
    kdc_tcp_ports = 88
[realms]
    EXAMPLE = {
        database_name = $dir/db
        key_stash_file = $dir/stash
        acl_file = $dir/acl
        max_life = 10h
    }
CONF
    # 1: every exchange over TCP.
    for limit in 1400 1; do
        cat >"$dir/krb5-$limit.conf" <<CONF
[libdefaults]
    default_realm = EXAMPLE
    dns_lookup_kdc = false
    dns_canonicalize_hostname = false
    udp_preference_limit = $limit
[realms]
    EXAMPLE = {
        kdc = $(v4 "$1")
    }
CONF
    done
    (
        export KRB5_CONFIG=$dir/krb5-1400.conf KRB5_KDC_PROFILE=$dir/kdc.conf
        kdb5_util -P master -r EXAMPLE create -s
        for i in {1..20}; do kadmin.local -q "addprinc -pw secret +requires_preauth user$i"; done
        for i in host imap nfs HTTP; do kadmin.local -q "addprinc -randkey $i/server.example"; done
    ) >>"$WORK/log/kadmin.log" 2>&1
    daemon "$1" env KRB5_CONFIG="$dir/krb5-1400.conf" KRB5_KDC_PROFILE="$dir/kdc.conf" krb5kdc -n
}

kerberos_session() {
    local conf
    conf=$WORK/krb-$2/krb5-$(one_of 1400 1400 1).conf
    export KRB5_CONFIG=$conf KRB5CCNAME=FILE:$WORK/$1.tickets
    echo "$(one_of secret secret secret wrong)" | on "$1" kinit $(one_of "" -f "-p -a") "user$(between 1 22)"
    think 50 800
    for _ in $(seq "$(between 0 3)"); do
        on "$1" kvno "$(one_of host imap nfs HTTP none)/server.example"
        think 50 800
    done
    on "$1" kdestroy
}
