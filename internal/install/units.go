package install

import (
	"fmt"
	"strings"
)

// UnitName is the name of the installation's systemd unit.
func (i *Installation) UnitName() string { return i.account() + ".service" }

// Unit returns the text of the systemd unit that runs `bulwark up` for the installation. binary is the absolute path of
// bulwark. systemd keeps the supervisor; the supervisor keeps the processes, exactly as without systemd.
func (i *Installation) Unit(binary string) (string, error) {
	for _, p := range []string{binary, i.Root} {
		if err := checkPath(p); err != nil { // nothing that systemd would expand or split
			return "", err
		}
	}
	return strings.NewReplacer("@NAME@", string(i.Name), "@ROOT@", i.Root, "@BINARY@", binary,
		"@DOMAIN@", string(i.Domain), "@STOP@", fmt.Sprint(stopSeconds)).Replace(unit), nil
}

// stopSeconds is longer than the graces of all processes together.
const stopSeconds = 240

// unit is the template. The hardening is what a supervisor can have whose children run containers: whatever systemd
// sets here, containerd, the shims and every instance inherit, so a line stands here only if instances can live with
// it. Left out, each for a reason:
//   - NoNewPrivileges, RestrictNamespaces, SystemCallFilter: runc needs them open and sets stricter ones for each
//     instance; the supervisor sets its own for each small process.
//   - ProtectSystem, PrivateTmp, ReadWritePaths, PrivateMounts, ProtectKernelTunables, ProtectKernelLogs,
//     ProtectControlGroups, ProtectHome, ProtectHostname: each gives the unit a mount (or uts) namespace of its own. Mounts of a
//     container would then vanish from the host's view, and a supervisor started after an upgrade would not see those
//     of instances that live on.
//   - MemoryDenyWriteExecute: an instance that compiles at run time (Node.js, Java) would break.
//   - OOMScoreAdjust: instances would inherit it; the node sets a score for each instead.
//   - RestrictSUIDSGID: images hold such files, and containerd unpacks them (an instance cannot use them).
//   - ProtectKernelModules: its mount part as above; its capability is in the bounding set's list instead.
//   - PrivateDevices: containerd makes device nodes and uses loop devices.
//   - RestrictAddressFamilies: needs a filter over instances; theirs is stricter already.
const unit = `# Written by "bulwark install"; changes are lost at the next one. Put yours into a drop-in: systemctl edit.
[Unit]
Description=Bulwark installation @NAME@ (@DOMAIN@)
After=network-online.target time-sync.target
Wants=network-online.target
# Restart for ever: a hosting platform that gives up is worse than one that is slow.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart=@BINARY@ up --root @ROOT@
# Instances, and when the supervisor crashes the platform's processes too, live on: the next start adopts them.
KillMode=process
Restart=always
RestartSec=1s
TimeoutStartSec=90s
TimeoutStopSec=@STOP@s
# The instances' control groups are ours.
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
# Keys are in memory: no core file may hold them.
LimitCORE=0
# An instance that is killed for want of memory is the node's business; the unit goes on.
OOMPolicy=continue
# Root's processes here and every instance: no kernel module, no raw device, no reboot, no clock, no kernel log. The kernel
# still loads what a mount or nftables needs on its own.
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_BOOT CAP_SYS_TIME CAP_SYS_PACCT CAP_SYSLOG CAP_SYS_TTY_CONFIG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_LINUX_IMMUTABLE CAP_AUDIT_CONTROL
UMask=0077
WorkingDirectory=/
StandardInput=null
# No foreign architecture's system calls: their filters are the ones that get forgotten.
SystemCallArchitectures=native
# No change of the execution domain, which switches off protections of memory.
LockPersonality=yes
# A real-time process can starve the machine.
RestrictRealtime=yes
# Away with the shell's environment; what is needed is written out.
UnsetEnvironment=LD_PRELOAD LD_LIBRARY_PATH GODEBUG GOTRACEBACK

[Install]
WantedBy=multi-user.target
`
