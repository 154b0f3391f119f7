package bulwark

import "fmt"

// Plan is what a build found out about an app: how it runs. A release freezes it. It is written by a builder, so whoever
// owns a builder chooses it, for that builder's app alone.
type Plan struct {
	Planner   string                  `json:"planner"`             // which planner made the image: "go", "node", …
	Processes map[ProcessType]Command `json:"processes"`           // from the Procfile, bulwark.toml or the planner's default
	Port      uint16                  `json:"port,omitempty"`      // what PORT is; 0 means EdgePort
	Health    string                  `json:"health,omitempty"`    // path that answers 2xx or 3xx when the app is ready; empty means TCP
	Writable  []string                `json:"writable,omitempty"`  // absolute paths that the app may write to; emptied at each start
	Isolation Isolation               `json:"isolation,omitempty"` // what stands between the app and the host's kernel
	Cron      []CronJob               `json:"cron,omitempty"`      // from bulwark.toml
	FirstByte Duration                `json:"first_byte,omitzero"` // time-out of a request to its first byte
	Idle      Duration                `json:"idle,omitzero"`       // time-out between two bytes
}

// Isolation is what stands between an app and the host's kernel.
type Isolation string

// The kinds of isolation.
const (
	IsolationDefault Isolation = ""        // namespaces and a filter of system calls
	IsolationSandbox Isolation = "sandbox" // a kernel of its own in user space (gVisor), behind the same
)

// ParseIsolation checks a kind of isolation.
func ParseIsolation(s string) (Isolation, error) {
	switch i := Isolation(s); i {
	case IsolationDefault, IsolationSandbox:
		return i, nil
	}
	return "", Invalid(fmt.Sprintf("There is no isolation %+q.", s), "Leave it out, or write \"sandbox\".")
}

// Command is one command of an app. Argv is executed as it stands, after Expand was done: no shell is involved unless the
// app's author wrote one.
type Command struct {
	Argv []string `json:"argv"`
	// Expand has $NAME and ${NAME} in Argv replaced from the environment by the instance's init.
	Expand bool   `json:"expand,omitempty"`
	Dir    string `json:"dir,omitempty"` // working directory; empty means the image's
}

// CronJob runs a command of an app on a schedule.
type CronJob struct {
	Name     ProcessType `json:"name"`
	Schedule string      `json:"schedule"` // five fields, UTC, as crontab(5) reads them
	Command  Command     `json:"command"`
}

// BuildSetup tells the process inside a builder where things are. It comes before the job, which may not be known yet: the
// builder gets ready meanwhile. It holds no secret of the platform.
type BuildSetup struct {
	State  string  `json:"state"`           // directory for BuildKit's state: the app's own cache
	Output string  `json:"output"`          // directory of a content store that receives the image's blobs
	Bases  string  `json:"bases"`           // directory that holds an OCI image layout per base, read-only
	Proxy  string  `json:"proxy,omitempty"` // "http://127.0.0.1:3128": the only way out, empty for none
	CA     string  `json:"ca,omitempty"`    // file with the certificate authorities that the proxy's way needs
	Go     GoProxy `json:"go"`
	NPM    string  `json:"npm,omitempty"` // URL of the npm registry
	// Images are the registries that a Dockerfile's FROM may name.
	Images []ImageRegistry `json:"images,omitempty"`
}

// BuildJob tells the process inside a builder what to do.
type BuildJob struct {
	Build BuildID `json:"build"`
	App   AppName `json:"app"`
	// Source is the directory with the measured source tree, read-only.
	Source string `json:"source,omitempty"`
	// Import, if set, names an OCI archive to take in place of building Source.
	Import string `json:"import,omitempty"`
	// Secrets are the names of the build secrets whose values follow on the descriptor.
	Secrets []ConfigName `json:"secrets,omitempty"`
}

// ImageRegistry is a registry of images that the operator allowed.
type ImageRegistry struct {
	Host string `json:"host"` // as FROM names it: "registry.internal:5000"
	// CA is PEM: authorities that are believed beside the host's when images are pulled from this registry.
	CA string `json:"ca,omitempty"`
}

// GoProxy is the host's own Go module configuration, as "go env" prints it.
type GoProxy struct {
	Proxy string `json:"proxy,omitempty"` // GOPROXY
	SumDB string `json:"sumdb,omitempty"` // GOSUMDB
	NoSum string `json:"nosum,omitempty"` // GONOSUMDB
}

// BuildEvent is one line of what a builder prints while it works: exactly one field is set.
type BuildEvent struct {
	Log    string       `json:"log,omitempty"`    // a line for the user, without its line end
	Stage  string       `json:"stage,omitempty"`  // a stage begins: "detect", "compile", "export"; for timing
	Result *BuildResult `json:"result,omitempty"` // the last line of a build that succeeded
	Error  *Error       `json:"error,omitempty"`  // the last line of one that failed
}

// BuildResult is a builder's own word on its outcome; the node believes the digests only after it has hashed the blobs.
type BuildResult struct {
	Image Digest `json:"image"` // of the OCI image manifest in Output
	Plan  Plan   `json:"plan"`
	// Own is how long the app's own build commands ran, for telling the platform's overhead from theirs.
	Own Duration `json:"own,omitzero"`
	// Used are the images that the build was made on.
	Used []ImageUsed `json:"used,omitempty"`
}

// ImageUsed is an image that a build began from: either a base of the platform's by name, or one of a registry.
type ImageUsed struct {
	Base   string `json:"base,omitempty"`
	Ref    string `json:"ref,omitempty"` // "registry.internal:5000/team/base:1"
	Digest Digest `json:"digest,omitempty"`
}
