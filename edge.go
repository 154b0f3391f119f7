package bulwark

import "time"

// EdgePort is the default of PORT: what an app is told to listen on inside its own network namespace.
const EdgePort = 8080

// Table is all that the edge needs to route: who serves which host name. It is immutable; a new one replaces the old
// as a whole. Generation only grows.
type Table struct {
	Generation uint64             `json:"generation"`
	Routes     map[HostName]AppID `json:"routes"`
	Apps       map[AppID]Upstream `json:"apps"`
}

// Upstream is the set of healthy instances of one app, and how to treat its requests.
type Upstream struct {
	Name      AppName      `json:"name"`
	Instances []InstanceID `json:"instances"`
	FirstByte Duration     `json:"first_byte,omitzero"` // default 30 s
	Idle      Duration     `json:"idle,omitzero"`       // default 60 s
	Queue     int          `json:"queue,omitempty"`     // waiting requests per instance, default 50
}

// Certificate is a TLS certificate with its key as the edge serves it. Keys live in memory only.
type Certificate struct {
	Names []HostName `json:"names"` // what it is served for; "*.x" is written with Wildcard
	// Wildcard, if not empty, makes the certificate serve every name one label below it.
	Wildcard HostName `json:"wildcard,omitempty"`
	Chain    []byte   `json:"chain"` // PEM, leaf first
	Key      []byte   `json:"key"`   // PEM, PKCS #8
	// Fallback marks one that nobody vouches for: it is served until an authority has issued another.
	Fallback bool `json:"fallback,omitempty"`
	// OCSP is the authority's word that it is not revoked (RFC 6960), to be shown with it until OCSPUntil; empty: it gives none.
	OCSP      []byte    `json:"ocsp,omitempty"`
	OCSPUntil time.Time `json:"ocspUntil,omitzero"`
}

// Challenges are what the certs process has the edge answer while a certificate authority looks whether a name is ours (RFC 8555 §8.3, RFC 8737).
type Challenges struct {
	HTTP []HTTPChallenge `json:"http,omitempty"`
	ALPN []Certificate   `json:"alpn,omitempty"` // served for the protocol acme-tls/1 and for nothing else
}

// HTTPChallenge is answered at /.well-known/acme-challenge/TOKEN of a host, on the port for http.
type HTTPChallenge struct {
	Host  HostName `json:"host"`
	Token string   `json:"token"`
	Says  string   `json:"says"` // the key authorization
}

// Registration tells dial about one running instance: the network namespace comes along as a file descriptor. Only
// the node can register. Hosts are the names that the app's owners claimed by signature: dial gives the edge a socket
// for no other.
type Registration struct {
	Instance InstanceID `json:"instance"`
	App      AppID      `json:"app"`
	Address  string     `json:"address"` // the instance's own address inside its namespace
	Port     uint16     `json:"port"`
	Hosts    []HostName `json:"hosts"`
}

// Duration is a time.Duration that reads as "30s" in JSON.
type Duration time.Duration

// MarshalText writes d as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return Invalid("A duration is a number and a unit, such as 30s or 5m.", "")
	}
	*d = Duration(v)
	return nil
}

// TablePatch is a change to the edge's Table, for when sending the whole of a large one would be slow. It applies only
// to the Table whose generation is BaseGeneration.
type TablePatch struct {
	BaseGeneration uint64             `json:"base_generation"`
	Generation     uint64             `json:"generation"`
	SetRoutes      map[HostName]AppID `json:"set_routes,omitempty"`
	DeleteRoutes   []HostName         `json:"delete_routes,omitempty"`
	SetApps        map[AppID]Upstream `json:"set_apps,omitempty"`
	DeleteApps     []AppID            `json:"delete_apps,omitempty"`
	// Force names apps whose last instance may go although the app stays.
	Force []AppID `json:"force,omitempty"`
}

// Drain asks the edge to answer when no request of an instance is in flight any more; the instance must have left the
// Table before.
type Drain struct {
	Instance InstanceID `json:"instance"`
	Timeout  Duration   `json:"timeout,omitzero"` // default 30 s
}

// Drained says how many requests were still in flight when the Drain ended.
type Drained struct {
	Left int `json:"left"`
}

// EdgeStats is what the edge counted since it started.
type EdgeStats struct {
	Generation  uint64                       `json:"generation"`
	DialPresent bool                         `json:"dial_present"` // dial is connected, so that new connections can be made
	Requests    uint64                       `json:"requests"`     // all, those without a route too
	LogDropped  uint64                       `json:"log_dropped"`  // access log lines that found no room
	Apps        map[AppID]AppStats           `json:"apps"`
	Instances   map[InstanceID]InstanceStats `json:"instances"`
}

// AppStats counts an app's answers by the first digit of their status: Status[2] are the 2xx.
type AppStats struct {
	Status  [6]uint64 `json:"status"`
	Waiting int       `json:"waiting"` // requests that wait for an instance now
}

// InstanceStats counts an instance's requests.
type InstanceStats struct {
	InFlight int    `json:"in_flight"`
	Requests uint64 `json:"requests"`
	Failed   uint64 `json:"failed"` // no answer, or a broken one
	Idle     int    `json:"idle"`   // open connections without a request
}

// DialRequest is what the edge asks of dial: a connection to an instance for a request to Host. An app's owners claimed
// Host by signature, or dial refuses.
type DialRequest struct {
	ID       uint64     `json:"id"`
	Instance InstanceID `json:"instance,omitempty"`
	Host     HostName   `json:"host,omitempty"`
	// Taken, if set, asks for no socket: it says that an edge has accepted this connection. Dial keeps another one waiting at the
	// same socket, so that every edge finds dial there, however many there are while they replace each other.
	Taken bool `json:"taken,omitempty"`
}

// DialReply answers a DialRequest; without an Error the connected socket comes along as a file descriptor.
type DialReply struct {
	ID    uint64    `json:"id"`
	Error DialError `json:"error,omitempty"`
}

// DialError says why dial made no connection. In every case nothing was sent.
type DialError string

// The reasons of dial.
const (
	DialRefused DialError = "refused" // nobody listens, or the instance is going away
	DialTimeout DialError = "timeout" // no answer in time
	DialUnknown DialError = "unknown" // no such instance is registered
	DialDenied  DialError = "denied"  // the instance does not answer for that host name
)

// AccessEvent is a request as the edge saw it. Times are in milliseconds; what was not reached is left out or 0.
type AccessEvent struct {
	Time     time.Time  `json:"time"`
	ID       string     `json:"id" doc:"the request's number, as in X-Request-Id"`
	App      AppID      `json:"app,omitempty"`
	Name     AppName    `json:"name,omitempty"`
	Instance InstanceID `json:"instance,omitempty"`
	Method   string     `json:"method"`
	Host     string     `json:"host"`
	Path     string     `json:"path" doc:"without what stands behind a question mark"`
	Status   int        `json:"status"`
	In       int64      `json:"in" doc:"bytes of the request's body"`
	Out      int64      `json:"out" doc:"bytes of the answer's body"`
	Queue    float64    `json:"queue_ms" doc:"waited for an instance"`
	First    float64    `json:"first_ms" doc:"until the first byte of the answer"`
	Total    float64    `json:"total_ms"`
	Proto    string     `json:"proto"`
	Client   string     `json:"client"`
	Fault    string     `json:"fault,omitempty" doc:"what went wrong between the edge and the app"`
	Trace    string     `json:"trace,omitempty" doc:"id of the trace, if the request is told of as a span (W3C Trace Context)"`
	Span     string     `json:"span,omitempty" doc:"id of the span"`
	Parent   string     `json:"parent,omitempty" doc:"id of the span that this one is part of; none: the trace begins here"`
}

// AccessEvents are requests that ended, the oldest first, and from where to ask for those after them.
type AccessEvents struct {
	Next   uint64        `json:"next"`
	Events []AccessEvent `json:"events"`
}
