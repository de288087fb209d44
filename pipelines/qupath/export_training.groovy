/*
 * Writes what is annotated in the open image as GeoJSON, to train on and to score against
 * (docs/labels.md).
 *
 * All annotations and detections with an area are written.  Before that, draw an annotation of
 * the class "Training region" or "Region*" around each place where every nucleus is right; places
 * in them that are to be left out have the class "Ignore*".
 *
 * QuPath: Automate > Script editor > open this file > Run.  Command line (one file an image, in
 * a folder that exists):
 *     QuPath script --project p.qpproj --image a.svs --args FOLDER export_training.groovy
 */
import qupath.fx.dialogs.FileChoosers
import qupath.lib.io.PathIO

import static qupath.lib.scripting.QP.*

def server = getCurrentServer()
if (server == null)
    throw new IllegalStateException('No image is open; open a slide first')

def file = server.getURIs().collect { new File(it.getPath() ?: '').getName() }.find { !it.isEmpty() }
String name = (file ?: server.getMetadata().getName()).replaceAll(/[\\\/:*?"<>|]/, '_') + '.training.geojson.gz'
File target
if (args)
    target = new File(args[0]).isDirectory() ? new File(args[0], name) : new File(args[0])
else
    target = FileChoosers.promptToSaveFile('Annotated nuclei of this image', new File(name), FileChoosers.createExtensionFilter('Packed GeoJSON', '.geojson.gz'))
if (target == null)
    return

def annotations = getAnnotationObjects().findAll { it.getROI() != null && it.getROI().isArea() }
def detections = getDetectionObjects().findAll { it.getROI() != null && it.getROI().isArea() }
int regions = annotations.count { it.getPathClass() != null && ['Training region', 'Region*'].contains(it.getPathClass().toString()) }
if (regions == 0)
    println('No annotation of the class "Training region" or "Region*": the whole image will count as annotated')
PathIO.exportObjectsAsGeoJSON(target.toPath(), annotations + detections, PathIO.GeoJsonExportOptions.FEATURE_COLLECTION)
println(target.getPath() + ': ' + regions + ' regions, ' + (annotations.size() - regions) + ' other annotations, ' + detections.size() + ' detections')
