package server

import (
	"net/http"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/client"
	"github.com/bulwark-paas/bulwark/internal/access"
	"github.com/bulwark-paas/bulwark/internal/api"
	"github.com/bulwark-paas/bulwark/internal/source/tree"
)

// The inputs of the endpoints. Each says what it is about.
type (
	platformIn struct{}
	infoIn     struct {
		Challenge string `query:"challenge" maxLength:"128" doc:"what the node's signed answer repeats"`
	}
	signedIn struct {
		Body client.Signed
	}
	// AppPath is exported because huma looks into exported embedded fields only.
	AppPath struct {
		App bulwark.AppName `path:"app" doc:"name of the app"`
	}
	appSignedIn struct {
		AppPath
		Body client.Signed
	}
	scaleIn struct {
		AppPath
		Body struct {
			Formation map[string]int `json:"formation" doc:"how many instances each process type has"`
		}
	}
	buildIn struct {
		AppPath
		Number uint64 `path:"number"`
	}
	operationIn struct {
		AppPath
		Operation bulwark.OperationID `path:"operation"`
	}
	logsIn struct {
		AppPath
		Tail   int  `query:"tail" minimum:"0" maximum:"10000"`
		Follow bool `query:"follow"`
	}
	proofIn struct {
		AppPath
		Challenge string `query:"challenge" maxLength:"128"`
	}
)

func (platformIn) Resource() access.Resource { return access.Platform() }
func (infoIn) Resource() access.Resource     { return access.Platform() }
func (signedIn) Resource() access.Resource   { return access.Platform() }

// Resource implements [api.Resourced].
func (in AppPath) Resource() access.Resource { return access.App(in.App) }

// endpoints is the list of all there are.
func (s *Server) endpoints(a *api.API) {
	get, post := http.MethodGet, http.MethodPost
	api.Register(a, api.Op{ID: "info", Method: get, Path: "/info", Summary: "What the server says about itself", Action: access.Open}, s.info)
	api.Register(a, api.Op{ID: "login", Method: post, Path: "/login", Summary: "Enrol a device", Action: access.Open}, s.login)
	api.Register(a, api.Op{ID: "whoami", Method: get, Path: "/whoami", Summary: "Who is signed in", Action: access.ReadSelf},
		s.whoami)
	api.Register(a, api.Op{ID: "list-orgs", Method: get, Path: "/orgs", Summary: "List the organisations that you belong to", Action: access.ListOrgs}, s.listOrgs)
	api.Register(a, api.Op{ID: "create-org", Method: post, Path: "/orgs", Summary: "Create an organisation by a statement", Action: access.CreateOrg}, s.createOrg)
	api.Register(a, api.Op{ID: "create-project", Method: post, Path: "/orgs/{org}/projects", Summary: "Create a project by a statement", Action: access.CreateProject}, s.createProject)
	api.Register(a, api.Op{ID: "rotate-project", Method: post, Path: "/orgs/{org}/projects/{project}/rotate", Summary: "Have the node make a new key for a project's values by a statement", Action: access.RotateKey}, s.rotateProject)
	api.Register(a, api.Op{ID: "list-members", Method: get, Path: "/orgs/{org}/members", Summary: "List who belongs to an organisation", Action: access.ReadMembers}, s.listMembers)
	api.Register(a, api.Op{ID: "change-members", Method: post, Path: "/orgs/{org}/members", Summary: "Change by a statement who belongs to an organisation", Action: access.ManageMembers}, s.changeMembers)
	api.Register(a, api.Op{ID: "change-project-members", Method: post, Path: "/projects/{project}/members", Summary: "Change by a statement who belongs to a project", Action: access.ManageMembers}, s.changeProjectMembers)
	api.Register(a, api.Op{ID: "leave-org", Method: post, Path: "/orgs/{org}/leave", Summary: "Leave an organisation by a statement", Action: access.Leave}, s.leave)
	api.Register(a, api.Op{ID: "list-tokens", Method: get, Path: "/tokens", Summary: "List your access tokens", Action: access.ManageTokens}, s.listTokens)
	api.Register(a, api.Op{ID: "change-tokens", Method: post, Path: "/tokens", Summary: "Make or revoke an access token by a statement", Action: access.ManageTokens}, s.changeTokens)
	api.Register(a, api.Op{ID: "explain-policy", Method: get, Path: "/policy", Summary: "Why something is allowed or refused", Action: access.ExplainPolicy}, s.explain)
	api.Register(a, api.Op{ID: "status", Method: get, Path: "/status", Summary: "State of the platform", Action: access.ReadStatus}, s.status)
	api.Register(a, api.Op{ID: "list-keys", Method: get, Path: "/keys", Summary: "List keys", Action: access.ReadKeys}, s.listKeys)
	api.Register(a, api.Op{ID: "add-key", Method: post, Path: "/keys", Summary: "Register a key", Action: access.ManageKeys}, s.manageKeys)
	api.Register(a, api.Op{ID: "remove-key", Method: post, Path: "/keys/remove", Summary: "Remove a key", Action: access.ManageKeys}, s.manageKeys)
	api.Register(a, api.Op{ID: "list-registries", Method: get, Path: "/registries", Summary: "List the hosts that all builds may reach", Action: access.ReadRegistries}, s.listRegistries)
	api.Register(a, api.Op{ID: "set-registry", Method: post, Path: "/registries", Summary: "Allow or remove a host for builds by a statement", Action: access.ManageRegistries}, s.setRegistry)
	api.Register(a, api.Op{ID: "list-patches", Method: get, Path: "/patches", Summary: "Virtual patches, and what met them", Action: access.ReadPatches}, s.listPatches)
	api.Register(a, api.Op{ID: "set-patch", Method: post, Path: "/patches", Summary: "Add or remove a virtual patch by a statement", Action: access.ManagePatches}, s.setPatch)
	api.Register(a, api.Op{ID: "create-app", Method: post, Path: "/apps", Summary: "Create an app", Action: access.CreateApp}, s.createApp)
	api.Register(a, api.Op{ID: "list-apps", Method: get, Path: "/apps", Summary: "List apps", Action: access.ListApps}, s.listApps)
	api.Register(a, api.Op{ID: "list-certificates", Method: get, Path: "/certificates", Summary: "How the certificates of claimed host names stand", Action: access.ListApps}, s.listCertificates)
	api.Register(a, api.Op{ID: "get-app", Method: get, Path: "/apps/{app}", Summary: "One app", Action: access.ReadApp}, s.getApp)
	api.Register(a, api.Op{ID: "destroy-app", Method: post, Path: "/apps/{app}/destroy", Summary: "Destroy an app", Action: access.DestroyApp}, s.destroyApp)
	api.Register(a, api.Op{ID: "restore-app", Method: post, Path: "/apps/{app}/restore", Summary: "Bring a destroyed app back", Action: access.RestoreApp}, s.restoreApp)
	api.Register(a, api.Op{ID: "change-app", Method: post, Path: "/apps/{app}/changes", Summary: "Make a release by a statement", Action: access.ChangeApp}, s.change)
	api.Upload(a, api.Op{ID: "upload-source", Method: http.MethodPut, Path: "/apps/{app}/sources", Summary: "Send what a deploy is made of", Action: access.Deploy}, tree.MaxArchive, s.upload)
	api.Register(a, api.Op{ID: "set-app", Method: post, Path: "/apps/{app}/settings", Summary: "Change a setting by a statement", Action: access.ChangeApp}, s.setting)
	api.Register(a, api.Op{ID: "list-releases", Method: get, Path: "/apps/{app}/releases", Summary: "List releases", Action: access.ReadApp}, s.listReleases)
	api.Register(a, api.Op{ID: "get-release", Method: get, Path: "/apps/{app}/releases/{number}", Summary: "What verifies a release", Action: access.ReadApp}, s.getRelease)
	api.Register(a, api.Op{ID: "approve-release", Method: post, Path: "/apps/{app}/releases/{number}/approve", Summary: "Approve another person's release by a statement", Action: access.Approve}, s.approve)
	api.Register(a, api.Op{ID: "protect-app", Method: post, Path: "/apps/{app}/protection", Summary: "Say by a statement how many others have to approve a release", Action: access.Protect}, s.protect)
	api.Register(a, api.Op{ID: "approve-protection", Method: post, Path: "/apps/{app}/protection/approve", Summary: "Agree by a statement with another protection", Action: access.Approve}, s.approveProtection)
	api.Register(a, api.Op{ID: "list-builds", Method: get, Path: "/apps/{app}/builds", Summary: "List builds", Action: access.ReadApp}, s.listBuilds)
	api.Register(a, api.Op{ID: "get-build", Method: get, Path: "/apps/{app}/builds/{number}", Summary: "One build", Action: access.ReadApp}, s.getBuild)
	api.Register(a, api.Op{ID: "get-build-sbom", Method: get, Path: "/apps/{app}/builds/{number}/sbom", Summary: "What the image of a build is made of", Action: access.ReadApp}, s.sbom)
	api.Register(a, api.Op{ID: "cancel-build", Method: post, Path: "/apps/{app}/builds/cancel", Summary: "Cancel the build", Action: access.CancelBuild}, s.cancelBuild)
	api.Register(a, api.Op{ID: "list-instances", Method: get, Path: "/apps/{app}/instances", Summary: "List instances", Action: access.ReadApp}, s.listInstances)
	api.Register(a, api.Op{ID: "scale-app", Method: post, Path: "/apps/{app}/scale", Summary: "Scale process types", Action: access.ScaleApp}, s.scale)
	api.Register(a, api.Op{ID: "restart-app", Method: post, Path: "/apps/{app}/restart", Summary: "Restart an app", Action: access.ScaleApp}, s.restartApp)
	api.Register(a, api.Op{ID: "get-config", Method: get, Path: "/apps/{app}/config", Summary: "Names of config variables", Action: access.ReadApp}, s.getConfig)
	api.Register(a, api.Op{ID: "reveal-config", Method: post, Path: "/apps/{app}/config/reveal", Summary: "Reveal a value to who signed for it", Action: access.RevealConfig}, s.reveal)
	api.Register(a, api.Op{ID: "list-build-secrets", Method: get, Path: "/apps/{app}/build-secrets", Summary: "Names of build secrets", Action: access.ReadApp}, s.listBuildSecrets)
	api.Register(a, api.Op{ID: "list-egress", Method: get, Path: "/apps/{app}/egress", Summary: "Destinations that were opened", Action: access.ReadApp}, s.listEgress)
	api.Register(a, api.Op{ID: "get-shield", Method: get, Path: "/apps/{app}/shield", Summary: "What protects an app at the edge, and what it refused", Action: access.ReadLogs}, s.getShield)
	api.Text(a, api.Op{ID: "get-app-metrics", Method: get, Path: "/apps/{app}/metrics", Summary: "What the edge counted of an app, for Prometheus", Action: access.ReadLogs}, s.appMetrics)
	api.Text(a, api.Op{ID: "get-metrics", Method: get, Path: "/metrics", Summary: "What the edge counted, for Prometheus", Action: access.ReadMetrics}, s.metrics)
	api.Register(a, api.Op{ID: "retry-certificate", Method: post, Path: "/apps/{app}/certificates/retry", Summary: "Have a certificate for a host name tried at once", Action: access.ChangeApp}, s.retryCertificate)
	api.Register(a, api.Op{ID: "get-proof", Method: get, Path: "/apps/{app}/proof", Summary: "What verifies an app", Action: access.ReadApp}, s.proof)
	api.Register(a, api.Op{ID: "list-cron", Method: get, Path: "/apps/{app}/cron", Summary: "List cron jobs and their last runs", Action: access.ReadApp}, s.listCron)
	api.Register(a, api.Op{ID: "run-cron", Method: post, Path: "/apps/{app}/cron/{job}/run", Summary: "Run a cron job now", Action: access.RunCron}, s.runCron)
	api.Upgrade(a, api.Op{ID: "run-app", Method: post, Path: "/apps/{app}/run", Summary: "Run a command in a one-off instance", Action: access.RunApp}, s.run)
	s.auditEndpoints(a)
	api.Register(a, api.Op{ID: "find-packages", Method: get, Path: "/packages", Summary: "Which releases that serve contain a package", Action: access.ListApps}, s.packages)
	api.Register(a, api.Op{ID: "get-posture", Method: get, Path: "/posture", Summary: "What the probes found, signed by the prober", Action: access.ReadPosture}, s.getPosture)
	api.Register(a, api.Op{ID: "run-probes", Method: post, Path: "/posture/run", Summary: "Have probes run now", Action: access.RunPosture}, s.runProbes)
	api.Stream(a, api.Op{ID: "watch-operation", Method: get, Path: "/apps/{app}/operations/{operation}/events", Summary: "Follow an operation", Action: access.ReadOperation}, s.watch)
	api.Stream(a, api.Op{ID: "read-logs", Method: get, Path: "/apps/{app}/logs", Summary: "Read logs", Action: access.ReadLogs}, s.logs)
	api.Stream(a, api.Op{ID: "read-requests", Method: get, Path: "/apps/{app}/requests", Summary: "Read what the edge saw of requests", Action: access.ReadLogs}, s.requests)
}
