{{/* What is watched in each namespace, and what is written there. */}}
{{- define "carrick.rules" -}}
- apiGroups: [carrick.dev]
  resources: [wsroutes]
  verbs: [list, watch]
- apiGroups: [carrick.dev]
  resources: [wsroutes/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
# When one that is told to go is killed.
- apiGroups: [""]
  resources: [pods]
  verbs: [get]
# Of type kubernetes.io/tls, and what routes name: certificates and keys, pages. RBAC knows no types.
- apiGroups: [""]
  resources: [secrets, configmaps]
  verbs: [get, list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [referencegrants]
  verbs: [list, watch]
# The HTTP-01 solver of cert-manager.
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [list, watch]
{{- if .Values.podDeletionCost }}
# An annotation. RBAC knows no fields.
- apiGroups: [""]
  resources: [pods]
  verbs: [patch]
{{- end }}
{{ include "carrick.eventRules" . }}
{{- end }}

{{/* Events about an object are in its namespace; one that is there already is counted up. */}}
{{- define "carrick.eventRules" -}}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, get, patch]
{{- end }}

{{/* What is cluster-scoped. */}}
{{- define "carrick.clusterRules" -}}
- apiGroups: [networking.k8s.io]
  resources: [ingressclasses]
  verbs: [list, watch]
# Their annotations and labels: requireGrants, and the selectors of delegate.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
# The zone of our own node. RBAC knows no "own".
- apiGroups: [""]
  resources: [nodes]
  verbs: [get]
{{- end }}

{{/* What is ours in our own namespace. A create knows no name yet. */}}
{{- define "carrick.ownRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "carrick.fullname" . }}]
  verbs: [get, update]
{{- $name := include "carrick.fullname" . }}
# What cookies and session tickets are encrypted with: whoever is first makes it.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ $name }}-keys]
  verbs: [get]
{{- if .Values.watchNamespaces }}
# The other replicas.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [services]
  resourceNames: [{{ $name }}{{ if .Values.manageTcpService }}, {{ $name }}-tcp{{ end }}]
  verbs: [list, watch]
{{- if .Values.manageTcpService }}
{{ include "carrick.eventRules" . }}
{{- end }}
{{- end }}
{{- if .Values.manageTcpService }}
- apiGroups: [""]
  resources: [services]
  verbs: [create]
- apiGroups: [""]
  resources: [services]
  resourceNames: [{{ $name }}-tcp]
  verbs: [update, delete]
{{- end }}
{{- end }}

{{/* A binding's end: to whom. */}}
{{- define "carrick.subjects" -}}
subjects:
- kind: ServiceAccount
  name: {{ include "carrick.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
