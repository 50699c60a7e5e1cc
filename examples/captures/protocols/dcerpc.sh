LABEL[dcerpc]=DCERPC FILTER[dcerpc]='tcp port 135 or tcp portrange 51000-51999' NEEDS[dcerpc]='samba smbclient samba-common-bin'

dcerpc_serve() {
    daemon "$1" /usr/libexec/samba/samba-dcerpcd -F --no-process-group --libexec-rpcds \
        -s "$(samba_conf "$1" 'rpc start on demand helpers = no' 'rpc server dynamic port range = 51000-51999' \
            'map to guest = bad user' 'server role = standalone server')"
}

# The client asks the endpoint mapper for the port of an interface, then talks to that port.
dcerpc_session() {
    local conf commands=
    conf=$(samba_conf "pc-$1")
    for _ in $(seq "$(between 1 4)"); do
        commands+=$(one_of lsaquery getusername 'lookupsids S-1-1-0' 'lookupnames root' enumprivs srvinfo netshareenumall \
            querydominfo enumdomains 'enumdomusers' 'winreg_enumkey HKLM')';'
    done
    on "$1" rpcclient -s "$conf" -U% -N "ncacn_ip_tcp:$(name "$2")$(one_of "" "[sign]")" -c "$commands"
}
