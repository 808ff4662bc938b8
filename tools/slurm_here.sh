#!/usr/bin/env bash
# A Slurm of two nodes on this machine, from Debian's packages, for as long as a command runs in it (or until it is
# stopped). Nothing outside its own folder is changed; any user can start it.
#
#   apt-get install -y slurmctld slurmd slurm-client munge     # once, as root
#   tools/slurm_here.sh FOLDER [COMMAND...]
#   tools/slurm_here.sh /tmp/slurm innerpo sweep studies/headline.yaml --launcher=slurm --workers=2 --slurm.gpus=0 \
#       --slurm.cpus=1
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
folder=${1:?usage: tools/slurm_here.sh FOLDER [COMMAND...]}
shift
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
for program in munged slurmctld slurmd sbatch; do
    command -v "$program" > /dev/null || { echo "error: $program is not installed (see the head of this script)" >&2; exit 3; }
done
pids=()
stop() { kill "${pids[@]}" 2> /dev/null || true; wait 2> /dev/null || true; }
trap stop EXIT

began=$SECONDS
mkdir -p "$folder"/{munge,state,spoolhere1,spoolhere2}
chmod 755 "$folder"
chmod 700 "$folder/munge"
head -c 1024 /dev/urandom > "$folder/munge/key"
chmod 400 "$folder/munge/key"
socket="$folder/munge.socket"
munged --foreground --force --key-file="$folder/munge/key" --socket="$socket" --pid-file="$folder/munge/pid" \
    --seed-file="$folder/munge/seed" --log-file="$folder/munge/log" &
pids+=($!)

user=$(id -un) host=$(hostname)
cat > "$folder/slurm.conf" << CONF
ClusterName=here
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$socket
SlurmctldPort=16817
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=10
MessageTimeout=60
SlurmdParameters=config_overrides
NodeName=here1 NodeHostname=$host NodeAddr=127.0.0.1 Port=16818 CPUs=1
NodeName=here2 NodeHostname=$host NodeAddr=127.0.0.1 Port=16819 CPUs=1
PartitionName=all Nodes=here1,here2 Default=YES State=UP MaxTime=INFINITE
CONF
printf "CgroupPlugin=cgroup/v1\nIgnoreSystemd=yes\n" > "$folder/cgroup.conf"
export SLURM_CONF="$folder/slurm.conf"
for _ in $(seq 50); do [ -S "$socket" ] && break; sleep 0.1; done
slurmctld -D > "$folder/slurmctld.out" 2>&1 &
pids+=($!)
for node in here1 here2; do
    slurmd -D -N "$node" > "$folder/slurmd.$node.out" 2>&1 &
    pids+=($!)
done
for _ in $(seq 120); do
    [ "$(sinfo --noheader --format=%T --Node 2> /dev/null | grep -c idle)" = 2 ] && break
    sleep 0.5
done
sinfo --Node
[ "$(sinfo --noheader --format=%T --Node | grep -c idle)" = 2 ] || { tail "$folder"/*.log "$folder"/*.out >&2; exit 3; }
echo "Slurm $(sinfo --version | cut -d' ' -f2) with two nodes is up after $((SECONDS - began)) s"

if [ $# -gt 0 ]; then
    "$@"
else
    echo "export SLURM_CONF=$SLURM_CONF"
    wait
fi
