package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/statement"
)

// Signed carries a statement's DSSE envelope, signed with the device key. Every call that changes something takes one.
type Signed struct {
	Envelope []byte `json:"envelope" doc:"DSSE envelope of a statement, signed with the device key"`
}

// Info is what a server says about itself to anybody. Envelope is the node's signed statement.Info.
type Info struct {
	Envelope []byte `json:"envelope"`
	Fresh    bool   `json:"fresh" doc:"nobody has signed in yet"`
	Version  string `json:"version"`
}

// App is an app as its owners see it.
type App struct {
	ID        bulwark.AppID               `json:"id"`
	Name      bulwark.AppName             `json:"name"`
	Project   bulwark.ProjectID           `json:"project"`
	URL       string                      `json:"url"`
	GitURL    string                      `json:"git_url"`
	Domains   []bulwark.HostName          `json:"domains"`
	Release   uint64                      `json:"release,omitempty" doc:"number of the release that serves"`
	Config    uint64                      `json:"config" doc:"newest config revision"`
	State     string                      `json:"state" doc:"new, running, degraded, crashed, stopped, destroyed"`
	Formation map[bulwark.ProcessType]int `json:"formation"`
	Created   time.Time                   `json:"created"`
	// Protection says who has to approve a release.
	Protection statement.Protection `json:"protection"`
	Until      *time.Time           `json:"until,omitempty" doc:"of a destroyed app that can be brought back: until when, as the node sees it now"`
}

// StateDestroyed is the state of an app that was destroyed.
const StateDestroyed = "destroyed"

// Release is one release.
type Release struct {
	Number  uint64         `json:"number"`
	State   string         `json:"state" doc:"candidate, waiting (for the approval of others), promoted, superseded, failed"`
	Image   bulwark.Digest `json:"image"`
	Config  uint64         `json:"config"`
	Cause   string         `json:"cause" doc:"push, app.deploy, config.set, app.rollback, app.resize"`
	Note    string         `json:"note,omitempty" doc:"commit, names of the changed variables, …"`
	Person  string         `json:"person"`
	Reason  string         `json:"reason,omitempty" doc:"why it failed"`
	Created time.Time      `json:"created"`
	// Approved holds who approved it.
	Approved []string `json:"approved,omitempty"`
}

// Build is one build.
type Build struct {
	Number  uint64          `json:"number"`
	ID      bulwark.BuildID `json:"id"`
	State   string          `json:"state" doc:"waiting, running, succeeded, failed, canceled"`
	Commit  string          `json:"commit,omitempty"`
	Image   bulwark.Digest  `json:"image,omitempty"`
	Reached []Reached       `json:"reached,omitempty" doc:"what the build reached over the network, and was refused"`
	Reason  string          `json:"reason,omitempty"`
	Created time.Time       `json:"created"`
	Ended   time.Time       `json:"ended,omitzero"`
	// Operation is the one whose events hold the build's log; empty when it is no longer kept.
	Operation bulwark.OperationID `json:"operation,omitempty"`
}

// Reached is a place that a build reached or was refused.
type Reached struct {
	Host    string `json:"host"`
	Port    uint16 `json:"port"`
	Allowed bool   `json:"allowed"`
	Count   int    `json:"count"`
	Reason  string `json:"reason,omitempty"`
	Bytes   int64  `json:"bytes,omitempty"`
}

// Instance is one running copy of a process type.
type Instance struct {
	ID      bulwark.InstanceID  `json:"id"`
	Name    string              `json:"name" doc:"such as web.1"`
	Process bulwark.ProcessType `json:"process"`
	Release uint64              `json:"release"`
	State   string              `json:"state" doc:"starting, healthy, unhealthy, exited, failed, stopping, waiting"`
	Reason  string              `json:"reason,omitempty"`
	Size    bulwark.Size        `json:"size"`
	Command string              `json:"command"`
	Since   time.Time           `json:"since"`
	Crashes int                 `json:"crashes,omitempty"`
}

// Event is one line of an operation's progress. The last one has Done or Error.
type Event struct {
	At    time.Time `json:"at,omitzero" doc:"when the server heard of it"`
	Log   string    `json:"log,omitempty"`
	Stage string    `json:"stage,omitempty" doc:"a stage begins; it lasts until the next one does"`
	// Own comes with the stage "built".
	Own   bulwark.Duration `json:"own,omitzero" doc:"how long the app's own build commands ran"`
	Done  *Done            `json:"done,omitempty"`
	Error *bulwark.Error   `json:"error,omitempty"`
}

// Done is the outcome of an operation.
type Done struct {
	Release uint64         `json:"release,omitempty"`
	Image   bulwark.Digest `json:"image,omitempty"`
	URL     string         `json:"url,omitempty"`
	Message string         `json:"message,omitempty"`
	// Waiting tells that the release was made and waits for the approval of others.
	Waiting bool `json:"waiting,omitempty"`
}

// Operation is a piece of work that a call began.
type Operation struct {
	ID      bulwark.OperationID `json:"id,omitempty" doc:"empty if the work was done at once"`
	Kind    string              `json:"kind"`
	State   string              `json:"state" doc:"waiting, running, done, failed, canceled, replaced"`
	Message string              `json:"message,omitempty"`
}

// Variable is the name of a config variable; values are shown only by Reveal.
type Variable struct {
	Name     bulwark.ConfigName `json:"name"`
	Revision uint64             `json:"revision" doc:"in which it was set"`
}

// AppConfig is the names of an app's variables.
type AppConfig struct {
	Revision  uint64     `json:"revision"`
	Variables []Variable `json:"variables"`
}

// LogLine is one line of an app's log.
type LogLine struct {
	At       time.Time `json:"at"`
	Instance string    `json:"instance" doc:"such as web.1"`
	Text     string    `json:"text"`
}

// Proof is all that verifies an app from a person's signature to what runs: see bulwark verify.
type Proof struct {
	Bundle  statement.Bundle `json:"bundle"`
	Running []byte           `json:"running" doc:"the node's signed word on what runs, with the caller's challenge"`
	// Approvals are the statements by which others approved the release.
	Approvals [][]byte `json:"approvals,omitempty"`
}

// Status is the state of the platform.
type Status struct {
	Version   string `json:"version"`
	Apps      int    `json:"apps"`
	Instances int    `json:"instances"`
	Healthy   int    `json:"healthy"`
	Building  int    `json:"building"`
	Node      string `json:"node" doc:"ok, or what is wrong with it"`
	Edge      string `json:"edge"`
	// Certificates is "ok", or which of the apps' host names have one that ends and is not renewed.
	Certificates string `json:"certificates" doc:"ok, or which end before long"`
}

// Info needs nobody to be signed in. The node's word repeats the challenge, by which it is known to be of now; it may be
// empty.
func (c *Client) Info(ctx context.Context, challenge string) (Info, error) {
	path := "/info"
	if challenge != "" {
		path += "?challenge=" + url.QueryEscape(challenge)
	}
	return ask[Info](ctx, c, http.MethodGet, path, nil)
}

// Login enrols the device with a statement of kind person.enroll.
func (c *Client) Login(ctx context.Context, s Signed) (Me, error) {
	return ask[Me](ctx, c, http.MethodPost, "/login", s)
}

// Whoami tells who is signed in.
func (c *Client) Whoami(ctx context.Context) (Me, error) {
	return ask[Me](ctx, c, http.MethodGet, "/whoami", nil)
}

// Status tells how the platform is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return ask[Status](ctx, c, http.MethodGet, "/status", nil)
}

// AddKey takes a statement of kind key.add.
func (c *Client) AddKey(ctx context.Context, s Signed) error {
	return c.call(ctx, http.MethodPost, "/keys", s, nil)
}

// RemoveKey takes a statement of kind key.remove.
func (c *Client) RemoveKey(ctx context.Context, s Signed) error {
	return c.call(ctx, http.MethodPost, "/keys/remove", s, nil)
}

// CreateApp takes a statement of kind app.create.
func (c *Client) CreateApp(ctx context.Context, s Signed) (App, error) {
	return ask[App](ctx, c, http.MethodPost, "/apps", s)
}

// Apps lists the apps.
func (c *Client) Apps(ctx context.Context) ([]App, error) {
	return ask[[]App](ctx, c, http.MethodGet, "/apps", nil)
}

// App returns one app.
func (c *Client) App(ctx context.Context, app bulwark.AppName) (App, error) {
	return ask[App](ctx, c, http.MethodGet, "/apps/"+esc(string(app)), nil)
}

// DestroyApp takes a statement of kind app.destroy. The answer says until when the app can be brought back, if it can.
func (c *Client) DestroyApp(ctx context.Context, app bulwark.AppName, s Signed) (App, error) {
	return ask[App](ctx, c, http.MethodPost, "/apps/"+esc(string(app))+"/destroy", s)
}

// RestoreApp takes a statement of kind app.restore.
func (c *Client) RestoreApp(ctx context.Context, app bulwark.AppName, s Signed) (App, error) {
	return ask[App](ctx, c, http.MethodPost, "/apps/"+esc(string(app))+"/restore", s)
}

// Change takes a statement that makes a release or changes how one runs: app.deploy, app.rollback, config.set,
// app.resize; it answers with the operation to watch.
func (c *Client) Change(ctx context.Context, app bulwark.AppName, s Signed) (Operation, error) {
	return ask[Operation](ctx, c, http.MethodPost, "/apps/"+esc(string(app))+"/changes", s)
}

// Setting takes a statement that changes a setting of an app without a release: domain.add, domain.remove, egress.allow,
// egress.deny, build-secret.set, shield.set.
func (c *Client) Setting(ctx context.Context, app bulwark.AppName, s Signed) error {
	return c.call(ctx, http.MethodPost, "/apps/"+esc(string(app))+"/settings", s, nil)
}

// Watch passes the events of an operation to f, from its beginning to its end.
func (c *Client) Watch(ctx context.Context, app bulwark.AppName, op bulwark.OperationID, f func(Event) error) error {
	return stream(ctx, c, http.MethodGet, "/apps/"+esc(string(app))+"/operations/"+esc(string(op))+"/events", nil, f)
}

// Releases lists releases, newest first.
func (c *Client) Releases(ctx context.Context, app bulwark.AppName) ([]Release, error) {
	return ask[[]Release](ctx, c, http.MethodGet, "/apps/"+esc(string(app))+"/releases", nil)
}

// Builds lists builds, newest first.
func (c *Client) Builds(ctx context.Context, app bulwark.AppName) ([]Build, error) {
	return ask[[]Build](ctx, c, http.MethodGet, "/apps/"+esc(string(app))+"/builds", nil)
}

// Build returns one build.
func (c *Client) Build(ctx context.Context, app bulwark.AppName, number uint64) (Build, error) {
	return ask[Build](ctx, c, http.MethodGet, "/apps/"+esc(string(app))+"/builds/"+strconv.FormatUint(number, 10), nil)
}

// CancelBuild stops the build that runs or waits.
func (c *Client) CancelBuild(ctx context.Context, app bulwark.AppName) error {
	return c.call(ctx, http.MethodPost, "/apps/"+esc(string(app))+"/builds/cancel", struct{}{}, nil)
}

// Instances lists what runs.
func (c *Client) Instances(ctx context.Context, app bulwark.AppName) ([]Instance, error) {
	return ask[[]Instance](ctx, c, http.MethodGet, "/apps/"+esc(string(app))+"/instances", nil)
}

// Scale sets how many instances each process type has; types that are not named stay as they are.
func (c *Client) Scale(ctx context.Context, app bulwark.AppName, formation map[bulwark.ProcessType]int) (App, error) {
	return ask[App](ctx, c, http.MethodPost, "/apps/"+esc(string(app))+"/scale", map[string]any{"formation": formation})
}

// Restart replaces every instance, one after the other.
func (c *Client) Restart(ctx context.Context, app bulwark.AppName) (Operation, error) {
	return ask[Operation](ctx, c, http.MethodPost, "/apps/"+esc(string(app))+"/restart", struct{}{})
}

// Config lists the names of the config variables.
func (c *Client) Config(ctx context.Context, app bulwark.AppName) (AppConfig, error) {
	return ask[AppConfig](ctx, c, http.MethodGet, "/apps/"+esc(string(app))+"/config", nil)
}

// Reveal takes a statement of kind config.reveal and returns the value sealed to the key that it names.
func (c *Client) Reveal(ctx context.Context, app bulwark.AppName, s Signed) (sealed []byte, err error) {
	var out struct {
		Sealed []byte `json:"sealed"`
	}
	err = c.call(ctx, http.MethodPost, "/apps/"+esc(string(app))+"/config/reveal", s, &out)
	return out.Sealed, err
}

// Logs passes the app's log lines to f; follow goes on until ctx ends.
func (c *Client) Logs(ctx context.Context, app bulwark.AppName, tail int, follow bool, f func(LogLine) error) error {
	path := "/apps/" + esc(string(app)) + "/logs?tail=" + strconv.Itoa(tail) + "&follow=" + strconv.FormatBool(follow)
	return stream(ctx, c, http.MethodGet, path, nil, f)
}

// Requests passes what the edge saw of the app's requests to f: the last so many that it knows of, and, with follow, those that end until ctx ends.
func (c *Client) Requests(ctx context.Context, app bulwark.AppName, tail int, follow bool, f func(bulwark.AccessEvent) error) error {
	path := "/apps/" + esc(string(app)) + "/requests?tail=" + strconv.Itoa(tail) + "&follow=" + strconv.FormatBool(follow)
	return stream(ctx, c, http.MethodGet, path, nil, f)
}

// Proof returns what verifies the app; challenge is the caller's own random text.
func (c *Client) Proof(ctx context.Context, app bulwark.AppName, challenge string) (Proof, error) {
	return ask[Proof](ctx, c, http.MethodGet, "/apps/"+esc(string(app))+"/proof?challenge="+esc(challenge), nil)
}
